"""Checks for django-health-check, and its view over them. Runs in the worker. Needs the extra ``health``.

Any of them can be listed in a HealthCheckView of the project's own. A failed check makes
that view answer 500. Anybody may see such a view, so the checks tell no numbers.
"""

from __future__ import annotations

import dataclasses
import inspect
import timeit
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.utils.cache import patch_vary_headers
from django.views import View
from health_check.base import HealthCheck, HealthCheckResult
from health_check.exceptions import HealthCheckException, ServiceUnavailable
from health_check.views import HealthCheckView

from django_workerguard.conf import pool_snapshots
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.health import bears_token, wants_json
from django_workerguard.report.verdict import LONGEST_SILENCE, judge
from django_workerguard.worker.current import current_worker

CHECKS = ("WorkerLoaded", "FleetReady", "ArbiterAlive")


@dataclasses.dataclass
class WorkerLoaded(HealthCheck):
    """The sentinel has passed the worker that answers."""

    async def run(self) -> None:
        worker = current_worker()
        if worker is not None and not worker.loaded:
            raise ServiceUnavailable("This worker is not loaded")


@dataclasses.dataclass
class FleetReady(HealthCheck):
    """At least so many slots have a ready worker; without ``min_ready`` the server's own quorum."""

    min_ready: int | None = dataclasses.field(default=None, repr=False)

    async def run(self) -> None:
        worker = current_worker()
        if worker is None:
            return
        vitals = worker.vitals()
        wanted = vitals.quorum if self.min_ready is None else self.min_ready
        if vitals.ready < wanted:
            raise ServiceUnavailable("Fewer workers are ready than are needed")


@dataclasses.dataclass
class ArbiterAlive(HealthCheck):
    """The arbiter ticks."""

    async def run(self) -> None:
        worker = current_worker()
        if worker is None:
            return
        ok, _ = judge("live", worker.vitals(), loaded=True, now=monotonic_ns() / 1e9)
        if not ok:
            raise ServiceUnavailable("The arbiter does not tick")


@dataclasses.dataclass
class PoolReady(HealthCheck):
    """Every guarded pool of this project's Celery workers on this host is ready, and at least ``pools`` of them run.

    Not one of the default checks: list it in a HealthCheckView of the project's own. It sees what
    this process's user may see.
    """

    pools: int = dataclasses.field(default=1, repr=False)

    async def run(self) -> None:
        found = pool_snapshots()
        if len(found) < self.pools:
            raise ServiceUnavailable("Fewer guarded Celery pools run here than are expected")
        if not all(map(_pool_is_well, found)):
            raise ServiceUnavailable("A guarded Celery pool is not ready")


def _pool_is_well(shot: dict[str, Any]) -> bool:
    ticks = shot["arbiter"]["beat_age"] <= LONGEST_SILENCE
    return bool(ticks and shot["arbiter"]["phase"] == "serving" and shot["ready"] >= shot["min_loaded"])


class GuardHealthView(HealthCheckView):
    """The full list: django-health-check's view over this package's checks."""

    checks = tuple(f"{__name__}.{name}" for name in CHECKS)

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not _has_template():
            request.META["HTTP_ACCEPT"] = _without_html(request.META.get("HTTP_ACCEPT", "*/*"))
            request.__dict__.pop("headers", None)
        response: HttpResponse = await super().get(request, *args, **kwargs)
        return response


class LooplessHealthView(View):
    """The same list on gevent, where an event loop in a worker would break its other requests."""

    def get(self, request: HttpRequest) -> HttpResponse:
        view = GuardHealthView()
        view.setup(request)
        if not _is_authorized(view, request):
            return _refusal()
        view.results = [run_without_loop(check) for check in view.get_checks()]
        status = 500 if any(result.error for result in view.results) else 200
        as_json = wants_json(request.META.get("HTTP_ACCEPT", ""), format=request.GET.get("format", ""))
        response: HttpResponse = (view.render_to_response_json if as_json else view.render_to_response_text)(
            status
        )
        return response


def _is_authorized(view: Any, request: HttpRequest) -> bool:
    """Say whether the client may see the list, as django-health-check's `dispatch` decides from 4.9 on.

    `dispatch` is asynchronous, so it is not run here.
    """
    if hasattr(view, "is_authorized"):
        return bool(view.is_authorized(request))
    token = getattr(settings, "HEALTH_CHECK_AUTH_TOKEN", None)
    return not token or bears_token(request.META.get("HTTP_AUTHORIZATION", ""), token)


def _refusal() -> HttpResponse:
    response = HttpResponseForbidden("Authentication failed", content_type="text/plain; charset=utf-8")
    patch_vary_headers(response, ["Authorization"])
    return response


def run_without_loop(check: HealthCheck) -> HealthCheckResult:
    """Run a check that never waits, without an event loop. One that does wait fails."""
    started = timeit.default_timer()
    error: HealthCheckException | None = None
    try:
        outcome = check.run()
        if inspect.iscoroutine(outcome):
            try:
                outcome.send(None)
                outcome.close()
                error = ServiceUnavailable("this check waits, which cannot be done on gevent")
            except StopIteration:
                pass
    except HealthCheckException as found:
        error = found
    return HealthCheckResult(check=check, error=error, time_taken=timeit.default_timer() - started)


def _has_template() -> bool:
    return "health_check" in settings.INSTALLED_APPS and bool(settings.TEMPLATES)


def _without_html(accept: str) -> str:
    return accept if "json" in accept or "openmetrics" in accept else "text/plain"
