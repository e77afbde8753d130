"""The health URLs as Django views. Runs in the worker.

Under `serve_guarded` the probes are answered before Django; these views answer them where
the server is another one and the middleware is missing, and make the URLs resolvable.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable

from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from django_workerguard.access import may_see_details
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.health import KINDS, Answer, ProbeKind, answer, wants_json
from django_workerguard.report.health import respond as make_answer
from django_workerguard.report.verdict import judge
from django_workerguard.worker.current import current_worker

logger = logging.getLogger("django_workerguard")


def probe(request: HttpRequest, kind: ProbeKind) -> HttpResponse:
    """Answer one of live, ready and startup."""
    worker = current_worker()
    loaded = worker.loaded if worker is not None else True
    return as_response(answer_probe(request, kind, loaded=loaded))


def answer_probe(request: HttpRequest, kind: ProbeKind, *, loaded: bool) -> Answer:
    """Answer a probe about this process, details for those only who may have them."""
    worker = current_worker()
    return answer(
        kind,
        worker.vitals() if worker is not None else None,
        loaded=loaded,
        now=monotonic_ns() / 1e9,
        as_json=asks_for_json(request),
        detailed=may_see_details(request),
    )


def asks_for_json(request: HttpRequest) -> bool:
    """Say whether the client of a request asks for JSON."""
    return wants_json(request.META.get("HTTP_ACCEPT", ""), format=request.GET.get("format", ""))


def as_response(told: Answer) -> HttpResponse:
    """Turn an answer into Django's response."""
    return HttpResponse(told.body, status=told.status, headers=dict(told.headers))


def _short_list(request: HttpRequest) -> HttpResponse:
    """Answer the full list without django-health-check: the three probes, a line each; 500 on error."""
    worker = current_worker()
    vitals = worker.vitals() if worker is not None else None
    loaded = worker.loaded if worker is not None else True
    now = monotonic_ns() / 1e9
    verdicts = {kind: judge(kind, vitals, loaded=loaded, now=now) for kind in KINDS}
    detailed = may_see_details(request)
    lines = [
        f"{kind}: {'OK' if ok else reason if detailed else 'unavailable'}"
        for kind, (ok, reason) in verdicts.items()
    ]
    status = 200 if all(ok for ok, _ in verdicts.values()) else 500
    return as_response(make_answer(status, "\n".join(lines) + "\n", "text/plain; charset=utf-8"))


def _is_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def health(request: HttpRequest) -> HttpResponseBase:
    """Answer the list of checks; django-health-check is imported when the list is first asked for."""
    return _full_list()(request)


@functools.cache
def _full_list() -> Callable[[HttpRequest], HttpResponseBase]:
    """Choose the list's view: it needs the extra ``health``, and on gevent must do without an event loop."""
    try:
        from django_workerguard.contrib import health_check
    except ImportError:  # not installed, or of a version before the checks became classes
        return _short_list
    except Exception:
        logger.warning(
            "django-health-check cannot be imported: the health URL lists the probes only", exc_info=True
        )
        return _short_list
    if _is_gevent():
        return health_check.LooplessHealthView.as_view()
    view: Callable[[HttpRequest], HttpResponseBase] = async_to_sync(health_check.GuardHealthView.as_view())
    return view
