"""Checks for django-health-check, and its view over them. Runs in the worker. Needs the extra ``health``.

Each check can be listed in a HealthCheckView of the project's own. If a check fails, that view answers 500. Every client
may see such a view, so the messages of the checks have no numbers.
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
from django_workerguard.worker.current import current_board, current_worker

CHECKS = ("WorkerLoaded", "FleetReady", "ArbiterAlive")


@dataclasses.dataclass
class WorkerLoaded(HealthCheck):
    """The sentinel has verified that the answering worker is loaded."""

    async def run(self) -> None:
        worker = current_worker()
        if worker is not None and not worker.loaded:
            raise ServiceUnavailable("This worker is not loaded")


@dataclasses.dataclass
class FleetReady(HealthCheck):
    """At least ``min_ready`` slots have a ready worker; the default is the server's quorum."""

    min_ready: int | None = dataclasses.field(default=None, repr=False)

    async def run(self) -> None:
        board = current_board()
        if board is None:
            return
        vitals = board.vitals
        required = vitals.quorum if self.min_ready is None else self.min_ready
        if vitals.ready < required:
            raise ServiceUnavailable("Fewer workers are ready than required")


@dataclasses.dataclass
class ArbiterAlive(HealthCheck):
    """The arbiter ticks."""

    async def run(self) -> None:
        board = current_board()
        if board is None:
            return
        ok, _ = judge("live", board.vitals, loaded=True, now=monotonic_ns() / 1e9)
        if not ok:
            raise ServiceUnavailable("The arbiter does not tick")


@dataclasses.dataclass
class PoolReady(HealthCheck):
    """Every guarded Celery pool of this project on this host is ready, and at least ``pools`` of them run.

    It is not one of the default checks: list it in a HealthCheckView of the project's own. It finds only pools that this
    process's user may see.
    """

    pools: int = dataclasses.field(default=1, repr=False)

    async def run(self) -> None:
        pools = pool_snapshots()
        if len(pools) < self.pools:
            raise ServiceUnavailable("Fewer guarded Celery pools run here than are expected")
        if not all(map(_is_pool_ready, pools)):
            raise ServiceUnavailable("A guarded Celery pool is not ready")


def _is_pool_ready(snapshot: dict[str, Any]) -> bool:
    ticks = snapshot["arbiter"]["beat_age"] <= LONGEST_SILENCE
    serves = snapshot["arbiter"]["phase"] == "serving"
    return bool(ticks and serves and snapshot["ready"] >= snapshot["min_loaded"])


class GuardHealthView(HealthCheckView):
    """The list of checks: django-health-check's view with this package's checks."""

    checks = tuple(f"{__name__}.{name}" for name in CHECKS)

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not _has_template():
            request.META["HTTP_ACCEPT"] = _without_html(request.META.get("HTTP_ACCEPT", "*/*"))
            request.__dict__.pop("headers", None)
        response: HttpResponse = await super().get(request, *args, **kwargs)
        return response


class LooplessHealthView(View):
    """The list of checks for gevent: in a gevent worker, an event loop would break other requests."""

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
    """Return whether the client may see the list, as `dispatch` decides in django-health-check 4.9 and later.

    `dispatch` itself cannot be used here, because it is asynchronous.
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
    """Run a check without an event loop. A check that has to wait fails."""
    started = timeit.default_timer()
    error: HealthCheckException | None = None
    try:
        outcome = check.run()
        if inspect.iscoroutine(outcome):
            try:
                outcome.send(None)
                outcome.close()
                error = ServiceUnavailable("this check has to wait, which is not possible on gevent")
            except StopIteration:
                pass
    except HealthCheckException as failure:
        error = failure
    return HealthCheckResult(check=check, error=error, time_taken=timeit.default_timer() - started)


def _has_template() -> bool:
    return "health_check" in settings.INSTALLED_APPS and bool(settings.TEMPLATES)


def _without_html(accept: str) -> str:
    return accept if "json" in accept or "openmetrics" in accept else "text/plain"
