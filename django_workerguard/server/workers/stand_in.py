"""Who answers 503 while nobody can serve: a parked process, or a worker that stays unloaded. Runs in a child.

gunicorn's threaded worker without an application. It accepts only while the arbiter has
it on duty, and says when it has stopped.
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
from django_workerguard.worker.after_fork import IgnoresHangup, die_with_parent
from django_workerguard.worker.seat_handle import SeatHandle

THREADS = 4


class Refusal:
    """A WSGI application that answers 503, and says when to come again."""

    def __init__(self, handle: SeatHandle) -> None:
        self._handle = handle

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        told = respond(
            503,
            "The site is starting or being repaired. Please try again in a moment.\n",
            "text/plain; charset=utf-8",
            retry_after=max(1, math.ceil(self._handle.next_try_in)),
        )
        start_response(f"{told.status} {told.reason}", list(told.headers))
        return [told.body]


def without_hooks(cfg: Any) -> None:
    """Take the user's worker hooks and the reloader out of a child's configuration: it is no worker."""
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
    """Return the prefix of an ASGI application, which the stand-in is not given with each request."""
    of_uvicorn = getattr(cfg.worker_class, "CONFIG_KWARGS", {}).get("root_path")
    return str(of_uvicorn or cfg.settings["root_path"].get() or "")


class StandIn(IgnoresHangup, ThreadWorker):
    """The worker class of the stand-in."""

    seat_handle: SeatHandle

    def take(self, handle: SeatHandle) -> None:
        self.seat_handle = handle
        self.tmp.take(handle)

    def load_wsgi(self) -> None:
        if not die_with_parent(self.ppid):
            raise SystemExit(ExitCode.OK)
        self.prepare()
        self.seat_handle.say(SeatState.PARKED)

    def prepare(self) -> None:
        self.cfg.set("keepalive", 0)  # no connection may outlive the duty
        if self.cfg.is_ssl:
            with contextlib.suppress(OSError, ValueError):  # it may be what keeps the workers from loading
                load_certificate(self.cfg)
        closer, after = close_without_waiting(), self.cfg.settings["post_request"].get()

        def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
            if closer is not None:
                closer.note(request)
            after(worker, request, environ, response)

        self.cfg.settings["post_request"].set(post_request)
        self.wsgi = GuardedWSGI(
            Refusal(self.seat_handle), HealthURLs(self.seat_handle, prefix=_prefix(self.cfg))
        )

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        on = enabled and self.seat_handle.ordered(Orders.DUTY)
        super().set_accept_enabled(on)
        words, word = self.seat_handle.board.words, self.seat_handle.base + Seat.DUTY
        if words[word] != self._accepting:
            words[word] = self._accepting
            self.seat_handle.wake()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=THREADS)

    def handle_winch(self, sig: int, frame: Any) -> None:
        """The arbiter's sign that the orders have changed: look at once, not at the next second."""
        self.method_queue.defer(self._follow_orders)

    def _follow_orders(self) -> None:
        self.set_accept_enabled(self.nr_conns < self.worker_connections)

    def notify(self) -> None:
        super().notify()
        self._follow_orders()


def attend(worker: Any) -> None:
    """Turn a worker that could not load into one that stays and answers 503 when nobody else can.

    Runs until it is asked to leave; then ends the process.
    """
    stand_in = StandIn(
        worker.age, worker.ppid, worker.sockets, worker.app, worker.timeout, worker.cfg, worker.log
    )
    stand_in.take(worker.seat_handle)
    stand_in.pid = worker.pid
    stand_in.PIPE = worker.PIPE
    stand_in.tpool = stand_in.get_thread_pool()
    stand_in.poller = selectors.DefaultSelector()
    stand_in.method_queue.init()
    stand_in.prepare()
    stand_in.init_signals()
    stand_in.run()
    raise SystemExit(ExitCode.OK)
