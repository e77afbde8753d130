"""The health URLs as Django views. Runs in the worker.

Under `serve_guarded` the probes are answered before Django. These views answer them under another server without the
middleware, and let Django resolve the URLs.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable

from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from django_workerguard.access import has_token, own_access
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.health import KINDS, Answer, ProbeKind, answer, wants_json
from django_workerguard.report.health import respond as make_answer
from django_workerguard.report.verdict import judge
from django_workerguard.worker.current import current_board, current_worker

logger = logging.getLogger("django_workerguard")


@own_access
def probe(request: HttpRequest, kind: ProbeKind) -> HttpResponse:
    """Answer one of the probes live, ready and startup."""
    worker = current_worker()
    loaded = worker.loaded if worker is not None else True
    return as_response(answer_probe(request, kind, loaded=loaded))


def answer_probe(request: HttpRequest, kind: ProbeKind, *, loaded: bool) -> Answer:
    """Answer a probe about this process, with details only for clients with the token: a session may need the database."""
    worker = current_worker()
    return answer(
        kind,
        worker.vitals() if worker is not None else None,
        loaded=loaded,
        now=monotonic_ns() / 1e9,
        as_json=asks_for_json(request),
        detailed=has_token(request),
    )


def asks_for_json(request: HttpRequest) -> bool:
    """Return whether the client of a request asks for JSON."""
    return wants_json(request.META.get("HTTP_ACCEPT", ""), format=request.GET.get("format", ""))


def as_response(answer: Answer) -> HttpResponse:
    """Convert an answer to a Django response."""
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))


def _short_list(request: HttpRequest) -> HttpResponse:
    """Answer the list of checks without django-health-check: one line for each probe; status 500 if one fails."""
    worker, board = current_worker(), current_board()
    vitals = board.vitals if board is not None else None
    loaded = worker.loaded if worker is not None else True
    now = monotonic_ns() / 1e9
    verdicts = {kind: judge(kind, vitals, loaded=loaded, now=now) for kind in KINDS}
    detailed = has_token(request)
    lines = [
        f"{kind}: {'OK' if ok else reason if detailed else 'unavailable'}"
        for kind, (ok, reason) in verdicts.items()
    ]
    status = 200 if all(ok for ok, _ in verdicts.values()) else 500
    return as_response(make_answer(status, "\n".join(lines) + "\n", "text/plain; charset=utf-8"))


def _is_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


@own_access
def health(request: HttpRequest) -> HttpResponseBase:
    """Answer the list of checks; django-health-check is imported at the first request of the list."""
    return _full_list()(request)


@functools.cache
def _full_list() -> Callable[[HttpRequest], HttpResponseBase]:
    """Choose the view of the list: it needs the extra ``health``, and on gevent it must not use an event loop."""
    try:
        from django_workerguard.contrib import health_check
    except ImportError:  # not installed, or an old version whose checks are not classes
        return _short_list
    except Exception:
        logger.warning(
            "django-health-check cannot be imported; the health URL lists only the probes", exc_info=True
        )
        return _short_list
    if _is_gevent():
        return health_check.LooplessHealthView.as_view()
    view: Callable[[HttpRequest], HttpResponseBase] = async_to_sync(health_check.GuardHealthView.as_view())
    return view
