"""The stand-in: answers 503 while no worker is ready. Runs in a parked child, or in a worker that stays unloaded.

It is gunicorn's threaded worker without an application. It accepts only while the arbiter has it on duty, and reports
when it has stopped.
"""

from __future__ import annotations

import contextlib
import math
import selectors
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from django_workerguard.errors import ExitCode
from django_workerguard.report.health import respond
from django_workerguard.scoreboard.layout import Orders, Seat, SeatState
from django_workerguard.server.workers.certificate import load_certificate
from django_workerguard.server.workers.connection_close import close_without_waiting
from django_workerguard.server.workers.wrapper import GuardedWSGI, HealthURLs
from django_workerguard.worker.after_fork import IgnoresSignalsForArbiter, die_with_parent
from django_workerguard.worker.seat_handle import SeatHandle

THREADS = 4


class Refusal:
    """A WSGI application that answers 503 with a Retry-After header."""

    def __init__(self, handle: SeatHandle) -> None:
        self._handle = handle

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = respond(
            503,
            "The site is starting or being repaired. Please try again in a moment.\n",
            "text/plain; charset=utf-8",
            retry_after=max(1, math.ceil(self._handle.next_try_in)),
        )
        start_response(f"{response.status} {response.reason}", list(response.headers))
        return [response.body]


def without_hooks(cfg: Any) -> None:
    """Remove the user's worker hooks and the reloader from the configuration of a stand-in, because it is not a worker."""
    for name in (
        "pre_request",
        "post_request",
        "post_worker_init",
        "worker_int",
        "worker_abort",
        "worker_exit",
    ):
        cfg.settings[name].set(cfg.settings[name].default)
    cfg.set("reload", False)


def _prefix(cfg: Any) -> str:
    """Return the prefix of an ASGI application: unlike the ASGI server, the stand-in does not get it with each request."""
    uvicorn_prefix = getattr(cfg.worker_class, "CONFIG_KWARGS", {}).get("root_path")
    return str(uvicorn_prefix or cfg.settings["root_path"].get() or "")


class StandIn(IgnoresSignalsForArbiter, ThreadWorker):
    """The worker class of the stand-in."""

    seat_handle: SeatHandle

    def take_seat(self, handle: SeatHandle) -> None:
        self.seat_handle = handle
        self.tmp.take_seat(handle)

    def load_wsgi(self) -> None:
        if not die_with_parent(self.ppid):
            raise SystemExit(ExitCode.OK)
        self.prepare()
        self.seat_handle.set_state(SeatState.PARKED)

    def prepare(self) -> None:
        self.cfg.set("keepalive", 0)  # no connection may stay open after its duty ends
        if self.cfg.is_ssl:
            with contextlib.suppress(
                OSError, ValueError
            ):  # the certificate may be the reason why the workers cannot load
                load_certificate(self.cfg)
        closer, user_hook = close_without_waiting(), self.cfg.settings["post_request"].get()

        def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
            if closer is not None:
                closer.record(request)
            user_hook(worker, request, environ, response)

        self.cfg.settings["post_request"].set(post_request)
        self.wsgi = GuardedWSGI(
            Refusal(self.seat_handle), HealthURLs(self.seat_handle, prefix=_prefix(self.cfg))
        )

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        on = enabled and self.seat_handle.has_order(Orders.DUTY)
        super().set_accept_enabled(on)
        words, word = self.seat_handle.board.words, self.seat_handle.base + Seat.DUTY
        if words[word] != self._accepting:
            words[word] = self._accepting
            self.seat_handle.wake()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=THREADS)

    def handle_winch(self, sig: int, frame: Any) -> None:
        """Read the orders at once: with this signal the arbiter reports that they have changed."""
        self.method_queue.defer(self._follow_orders)

    def _follow_orders(self) -> None:
        self.set_accept_enabled(self.nr_conns < self.worker_connections)

    def notify(self) -> None:
        super().notify()
        self._follow_orders()


def serve_as_stand_in(worker: Any) -> None:
    """Turn a worker that could not load into a stand-in, which answers 503 while no worker is ready.

    Runs until it is asked to leave, then ends the process.
    """
    stand_in = StandIn(
        worker.age, worker.ppid, worker.sockets, worker.app, worker.timeout, worker.cfg, worker.log
    )
    stand_in.take_seat(worker.seat_handle)
    stand_in.pid = worker.pid
    stand_in.PIPE = worker.PIPE
    stand_in.tpool = stand_in.get_thread_pool()
    stand_in.poller = selectors.DefaultSelector()
    stand_in.method_queue.init()
    stand_in.prepare()
    stand_in.init_signals()
    stand_in.run()
    raise SystemExit(ExitCode.OK)
