"""Middleware that stops an unloaded worker from answering, under any server. Runs in the worker.

Under `serve_guarded` the server does all of this, and the middleware removes itself from the chain. Under runserver,
plain gunicorn, uWSGI and others, it runs the sentinel's steps on the first request, and answers 503 until they have
passed.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse

from django_workerguard.conf import guard_options
from django_workerguard.config.load_request import LoadRequest, Step
from django_workerguard.policy.backoff import back_off, seed_of
from django_workerguard.report.health import KINDS, ProbeKind, respond
from django_workerguard.sentinel import describe_failure, load_steps
from django_workerguard.views import answer_probe, as_response, asks_for_json
from django_workerguard.worker.current import current_worker

logger = logging.getLogger("django_workerguard")

FIRST, LONGEST = 1.0, 30.0  # seconds of back-off between two tries in one process


class GuardMiddleware:
    """The guard of a worker under another server; list it first in MIDDLEWARE. Synchronous and asynchronous."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        if current_worker() is not None:
            raise MiddlewareNotUsed("serve_guarded answers the probes and loads the worker itself")
        self.get_response = get_response
        self.gate = gate_of_process()
        self._kinds: dict[str, ProbeKind] = {}
        for kind in KINDS:
            path = f"{guard_options().health_path}{kind}"
            self._kinds |= {path: kind, f"{path}/": kind}
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if self._is_async:
            return self._acall(request)
        if not self.gate.loaded:
            self.gate.try_to_load()
        return self._answered_here(request) or self.get_response(request)

    async def _acall(self, request: HttpRequest) -> HttpResponse:
        if not self.gate.loaded:
            await sync_to_async(self.gate.try_to_load, thread_sensitive=True)()
        response: HttpResponse = self._answered_here(request) or await self.get_response(request)
        return response

    def _answered_here(self, request: HttpRequest) -> HttpResponse | None:
        kind = self._kinds.get(request.path_info)
        if kind is not None:
            return as_response(answer_probe(request, kind, loaded=self.gate.loaded))
        if self.gate.loaded:
            return None
        return self._refusal(request)

    def _refusal(self, request: HttpRequest) -> HttpResponse:
        wait = max(1, round(self.gate.next_try - time.monotonic()))
        if asks_for_json(request):
            response = respond(503, '{"status": "unavailable"}\n', "application/json", retry_after=wait)
        else:
            text = "This site is not available just now. Please try again in a moment.\n"
            response = respond(503, text, "text/plain; charset=utf-8", retry_after=wait)
        return as_response(response)


class Gate:
    """The load of this process: whether it is loaded, and if not, when it tries again."""

    def __init__(self) -> None:
        self.loaded = False
        self.next_try = 0.0
        self._failures = 0
        self._seed = seed_of(socket.gethostname(), os.getpid(), time.time_ns())
        self._lock = threading.Lock()

    def try_to_load(self) -> None:
        """Run the sentinel's steps if a try is due; other requests wait until it ends."""
        with self._lock:
            if self.loaded or time.monotonic() < self.next_try:
                return
            options = guard_options()
            request = LoadRequest(
                app=None,
                interface="wsgi",
                warmup=options.warmup,
                warmup_path=(),
                load_probe=options.load_probe,
                release="",
                urlconf=options.urlconf,
            )
            try:
                load_steps(request, _LogReporter())
            except (Exception, SystemExit) as error:
                self._failed(error)
            else:
                self.loaded = True

    def _failed(self, error: BaseException) -> None:
        self._failures += 1
        wait = back_off(self._failures, slot=0, first=FIRST, longest=LONGEST, transient=True, seed=self._seed)
        self.next_try = time.monotonic() + wait
        failure = describe_failure(error)
        if self._failures == 1:
            logger.error(
                "This worker is not loaded and answers 503; it tries again at the first request after %.1f s:\n%s",
                wait,
                failure["traceback"],
            )
        else:
            logger.error(
                "This worker is still not loaded after %d tries: %s: %s",
                self._failures,
                failure["type"],
                failure["message"],
            )


@functools.cache
def gate_of_process() -> Gate:
    """Return the one gate of this process: a test client, for example, makes a second handler and middleware."""
    return Gate()


class _LogReporter:
    """Logs the parts that a load skips, because there is no arbiter to report them to."""

    def begin(self, name: str) -> None:
        """Nothing to report."""

    def end(self, step: Step) -> None:
        for part in step.skipped:
            logger.warning(
                "%s cannot be loaded in step %s and is left out: %s: %s",
                part.part,
                step.name,
                part.type,
                part.message,
            )
