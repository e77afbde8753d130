"""The mixin that guards any gunicorn worker class. Runs in the worker; the arbiter makes the class."""

from __future__ import annotations

import _thread
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Orders, Seat, SeatState
from django_workerguard.server.workers.accept_delay import defer_accept, delay_accept_while_suspect
from django_workerguard.server.workers.cancel_requests import Canceller
from django_workerguard.server.workers.certificate import load_certificate
from django_workerguard.server.workers.connection_close import Closer, close_without_waiting
from django_workerguard.server.workers.queue_time import Queue
from django_workerguard.server.workers.request_counter import RequestCount, chain_hooks, request_count
from django_workerguard.server.workers.wrapper import GuardedASGI, GuardedWSGI, HealthURLs, RegisteredWSGI
from django_workerguard.worker import load
from django_workerguard.worker.after_fork import (
    IgnoresSignalsForArbiter,
    die_with_parent,
    release_seat_after_fork,
)
from django_workerguard.worker.current import current_worker
from django_workerguard.worker.register import Register, current_register, set_current_register
from django_workerguard.worker.seat_handle import SeatHandle
from django_workerguard.worker.stacks import dump_the_others, force_every_thread

Step = Callable[[], None]
# seconds for which the kernel holds a connection without data, if gunicorn's timeout sets no limit
DEFER_ACCEPT = 30.0
ANNOUNCE_TIMEOUT = 5.0  # seconds for the receivers of worker_retiring
PACKAGE = "django_workerguard.server.workers"
ASGI_CLASSES = ("ASGIWorker", "UvicornWorker")


def is_asgi(worker_class: type) -> bool:
    """Return whether a worker class serves ASGI applications."""
    return any(cls.__name__ in ASGI_CLASSES for cls in worker_class.__mro__)


def _blocks_on_clients(worker_class: type) -> bool:
    """Return whether a worker class blocks in `recv` until the client sends something."""
    return any(cls.__name__ in ("SyncWorker", "ThreadWorker") for cls in worker_class.__mro__)


def server_steps(cfg: Any) -> dict[str, Step]:
    """Return the steps of the load that belong to the server, by name."""
    return {"certificate": functools.partial(load_certificate, cfg)} if cfg.is_ssl else {}


@functools.cache
def guarded_class(worker_class: type[Any]) -> type[Any]:
    """Return the guarded form of a gunicorn worker class."""
    if issubclass(worker_class, GuardMixin):
        return worker_class
    bases = (GuardMixin, *_draining(worker_class), worker_class)
    return type(f"Guarded{worker_class.__name__}", bases, {"asynchronous": is_asgi(worker_class)})


def _draining(worker_class: type) -> tuple[type, ...]:
    if not is_asgi(worker_class):
        return ()
    # imported here because they import asyncio, and because uvicorn is an extra
    if any(cls.__name__ == "UvicornWorker" for cls in worker_class.__mro__):
        return (import_module(f"{PACKAGE}.uvicorn_server").DrainingUvicorn,)
    return (import_module(f"{PACKAGE}.drain").DrainingASGI,)


def _end_main_greenlet(end: SystemExit) -> None:
    """End gevent's main greenlet, if another one runs: gunicorn ignores a SystemExit in that of a request."""
    if "gevent" in sys.modules:
        hub = import_module("gevent._hub_local").get_hub_if_exists()
        if hub is not None and import_module("gevent").getcurrent() not in (hub, hub.parent):
            hub.handle_system_error(SystemExit, end)


def task_identity() -> Callable[[], int]:
    """Return a function that identifies the running asyncio task; in another thread, the thread."""
    # imported here, because the arbiter must not import it before a gevent worker has patched it
    current_task = import_module("asyncio").current_task

    def identity() -> int:
        try:
            return id(current_task())
        except RuntimeError:  # in a thread of an executor
            return threading.get_ident()

    return identity


class GuardMixin(IgnoresSignalsForArbiter):
    """Loads with the sentinel, waits for its admission, and reports when it accepts and when it leaves."""

    seat_handle: SeatHandle
    server: Any  # the arbiter, as gunicorn hands it to hooks; set after the fork
    asynchronous = False
    _is_ready = False
    loaded: load.Application | None = None  # by the mold that this worker was forked from, if there is one
    _retiring = False
    _leaving_announced = False
    _closer: Closer | None = None

    # attributes of gunicorn's base class
    cfg: Any
    log: Any
    ppid: int
    alive: bool
    reloader: Any
    sockets: list[Any]

    def take_seat(self, handle: SeatHandle) -> None:
        """Give this worker its seat. Called in the arbiter before the fork."""
        self.seat_handle = handle
        self.tmp: Any
        self.tmp.take_seat(handle)

    def load_wsgi(self) -> None:
        if not die_with_parent(self.ppid):
            raise SystemExit(ExitCode.OK)
        release_seat_after_fork(self.seat_handle)
        if self.reloader is not None:
            self._leave_on_change(self.reloader)
        try:
            app = load.load(
                self.seat_handle,
                on_stop=lambda: self.cfg.worker_exit(self.server, self),
                server_steps=server_steps(self.cfg),
                loaded=self.loaded,
            )
        except BaseException:
            self._stay_or_leave()
            raise SystemExit(ExitCode.LOAD_FAILED) from None
        count = request_count(self.seat_handle.board, self.seat_handle.seat)
        delay_accept_while_suspect(self.sockets, count)
        if _blocks_on_clients(type(self)):
            defer_accept(self.sockets, self.cfg.timeout or DEFER_ACCEPT)
        self._enable_loggers()
        self._wrap(app, count)
        import_module(load.SENTINEL).watch_memory_errors(count.memory_error)
        self._announce("announce_loaded")

    def _enable_loggers(self) -> None:
        """Enable the server's loggers again if the project's LOGGING has disabled all existing loggers."""
        loggers = [getattr(self.log, name, None) for name in ("error_log", "access_log")]
        existing = logging.root.manager.loggerDict
        loggers += [existing.get(name) for name in ("uvicorn.error", "uvicorn.access")]
        disabled = [logger for logger in loggers if isinstance(logger, logging.Logger) and logger.disabled]
        for logger in disabled:
            logger.disabled = False
        if disabled:
            names = " and ".join(logger.name for logger in disabled)
            self.log.warning(
                "the project's LOGGING disabled %s; the guard has enabled them again; set disable_existing_loggers to False",
                names,
            )

    def _leave_on_change(self, reloader: Any) -> None:
        """Let gunicorn's reloader stop any worker class: uvicorn's ignores the flag that the reloader sets."""
        callback = reloader._callback

        def call_and_stop(name: str) -> None:
            try:
                callback(name)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        reloader._callback = call_and_stop

    def _stay_or_leave(self) -> None:
        if self.seat_handle.state == SeatState.UNLOADED:
            stand_in = import_module("django_workerguard.server.workers.stand_in")
            stand_in.serve_as_stand_in(self)

    def _wrap(self, app: Callable[..., Any], count: RequestCount) -> None:
        health = HealthURLs(self.seat_handle)
        # looked up now: under gevent it identifies greenlets
        identity = task_identity() if self.asynchronous else threading.get_ident
        register = Register(self.seat_handle.board, self.seat_handle.seat, identity)
        set_current_register(register)
        import_module(load.SENTINEL).name_views(register.name_view)
        # imported here, because most sites need none of it
        uwsgi = import_module(f"{PACKAGE}.uwsgi_protocol") if self.cfg.protocol == "uwsgi" else None
        queue = Queue(count, self.seat_handle.options.queue_timeout, self.cfg, self.sockets)
        if self.asynchronous:
            import_module("gunicorn.instrument.statsd")  # gunicorn imports it at the first request
            self.wsgi: Any = GuardedASGI(
                *(app, health, count, register, queue),
                canceller=self._canceller(),
                admit=self._admitted,
                failed=self._lifespan_failed,
            )
            if uwsgi is not None:
                self.wsgi = uwsgi.UwsgiASGI(self.wsgi)
            self.asgi = self.wsgi
        else:
            self._closer = close_without_waiting()
            chain_hooks(self, count, register, answered=self._closer.record)
            self.wsgi = GuardedWSGI(RegisteredWSGI(app, register, queue), health)
            if any(cls.__name__ == "ThreadWorker" for cls in type(self).__mro__):
                force_every_thread(self.seat_handle.dump_fd)
            if uwsgi is not None:
                self.wsgi = uwsgi.UwsgiWSGI(self.wsgi)

    def _canceller(self) -> Canceller | None:
        handle, options = self.seat_handle, self.seat_handle.options
        if options.request_timeout_action != "cancel":
            return None
        return Canceller(handle.board, handle.seat, options.request_timeout)

    def run(self) -> None:
        if not self._has_lifespan and not load.wait_for_admission(self.seat_handle, alive=lambda: self.alive):
            return
        try:
            super().run()  # type: ignore[misc]
        finally:
            if self.asynchronous:
                self._handle_signals_without_loop()
        if self._closer is not None:
            self._closer.finish()
        deadline = time.monotonic() + ANNOUNCE_TIMEOUT
        while self._retiring and not self._leaving_announced and time.monotonic() < deadline:
            time.sleep(0.01)

    def _handle_signals_without_loop(self) -> None:
        """Handle signals after the event loop: it leaves the defaults behind, and uvloop handlers that do nothing."""
        handlers = {
            signal.SIGTERM: self.handle_exit,  # type: ignore[attr-defined]
            signal.SIGQUIT: self.handle_quit,  # type: ignore[attr-defined]
            signal.SIGINT: self.handle_quit,  # type: ignore[attr-defined]
            signal.SIGUSR1: self.handle_usr1,  # type: ignore[attr-defined]
            signal.SIGABRT: self.handle_abort,
        }
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.siginterrupt(signal.SIGTERM, False)
        signal.siginterrupt(signal.SIGUSR1, False)
        load.dump_stacks(self.seat_handle)

    @property
    def _has_lifespan(self) -> bool:
        """Whether the server starts the application's lifespan; the lifespan then waits for the admission."""
        if not self.asynchronous:
            return False
        uvicorn = getattr(self, "config", None)
        mode = getattr(uvicorn, "lifespan", None) or getattr(self.cfg, "asgi_lifespan", "auto")
        return bool(mode != "off")

    async def _admitted(self) -> None:
        import asyncio  # here, because the arbiter must not import it before a gevent worker has patched it

        load.mark_loaded(self.seat_handle)
        while self.alive and not self.seat_handle.has_order(Orders.ADMIT):
            await asyncio.sleep(0.002)

    def _lifespan_failed(self, error: BaseException) -> None:
        if self.seat_handle.state != SeatState.FAILED:
            load.record_failure(self.seat_handle, error)

    def notify(self) -> None:
        super().notify()  # type: ignore[misc]
        if not self._is_ready and self.seat_handle.state == SeatState.LOADED:
            self._is_ready = True
            self.notify = self._notify_from_now_on()  # type: ignore[method-assign]
            self._report_sigterm()
            load.mark_ready(self.seat_handle)

    def _notify_from_now_on(self) -> Step:
        """Return what is called for every request: gunicorn's own, and on gthread a word on the requests that wait."""
        beat: Step = super().notify  # type: ignore[misc]
        queue = getattr(getattr(self, "tpool", None), "_work_queue", None)
        if queue is None:
            return beat
        words, at, waiting = self.seat_handle.board.words, self.seat_handle.base + Seat.WAITING, queue.qsize

        def notify() -> None:
            beat()
            words[at] = waiting()

        return notify

    def _report_sigterm(self) -> None:
        """On SIGTERM, report that this worker leaves, then call the handler of the worker class."""
        before = signal.getsignal(signal.SIGTERM)

        def retiring(number: int, frame: Any) -> None:
            if not self._retiring:
                self._retiring = True
                self.seat_handle.set_state(SeatState.LEAVING)
                self._announce_leaving_in_thread()
            if callable(before):
                before(number, frame)
            elif before is signal.SIG_DFL:
                raise SystemExit(ExitCode.OK)

        signal.signal(signal.SIGTERM, retiring)
        signal.siginterrupt(signal.SIGTERM, False)

    def handle_abort(self, sig: int, frame: Any) -> None:
        self._before_abort()
        try:
            super().handle_abort(sig, frame)  # type: ignore[misc]
        except SystemExit as end:
            _end_main_greenlet(end)
            raise

    def handle_abort_signal(self) -> None:
        self._before_abort()
        super().handle_abort_signal()  # type: ignore[misc]

    def _before_abort(self) -> None:
        """Dump the stacks that faulthandler leaves to Python, and keep the requests in hand on record."""
        register = current_register()
        if register is not None:
            register.keep()
        dump_the_others(self.seat_handle.dump_fd, getattr(self, "loop", None))

    def _announce_leaving_in_thread(self) -> None:
        try:
            # not with threading.Thread, because its start() blocks, which a gevent hub must not do
            _thread.start_new_thread(self._announce_leaving, ())
        except RuntimeError:  # no thread can be started; the requests in hand matter more
            self._leaving_announced = True

    def _announce_leaving(self) -> None:
        try:
            self._announce("announce_retiring")
        finally:
            self._leaving_announced = True

    def _announce(self, function: str) -> None:
        """Send one of the package's Django signals, through the sentinel, because this module never imports Django."""
        getattr(import_module(load.SENTINEL), function)(current_worker())
