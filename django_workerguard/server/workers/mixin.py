"""The guard around any gunicorn worker class. Runs in the worker; made in the arbiter."""

from __future__ import annotations

import _thread
import functools
import logging
import os
import signal
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Orders, Seat, SeatState
from django_workerguard.server.workers.accept_delay import leave_silent_clients, patient_listeners
from django_workerguard.server.workers.certificate import load_certificate
from django_workerguard.server.workers.connection_close import Closer, close_without_waiting
from django_workerguard.server.workers.request_counter import RequestCount, chain_hooks, request_count
from django_workerguard.server.workers.wrapper import GuardedASGI, GuardedWSGI, HealthURLs
from django_workerguard.worker import load
from django_workerguard.worker.after_fork import IgnoresHangup, die_with_parent, release_seat_after_fork
from django_workerguard.worker.current import current_worker
from django_workerguard.worker.seat_handle import SeatHandle

Step = Callable[[], None]
# seconds that a client which sends nothing is kept from the workers, if gunicorn's timeout sets no limit
SILENCE = 30.0
FAREWELL = 5.0  # seconds that receivers of worker_retiring get
ASGI_CLASSES = ("ASGIWorker", "UvicornWorker")


def is_asgi(worker_class: type) -> bool:
    """Say whether a worker class serves ASGI applications."""
    return any(cls.__name__ in ASGI_CLASSES for cls in worker_class.__mro__)


def _waits_for_clients(worker_class: type) -> bool:
    """Say whether a worker class waits in `recv` for what a client sends, with nothing else to do."""
    return any(cls.__name__ in ("SyncWorker", "ThreadWorker") for cls in worker_class.__mro__)


def own_steps(cfg: Any) -> dict[str, Step]:
    """Return what a load has to get through besides the application, by name."""
    return {"certificate": functools.partial(load_certificate, cfg)} if cfg.is_ssl else {}


@functools.cache
def guarded(worker_class: type[Any]) -> type[Any]:
    """Return the guarded form of a gunicorn worker class."""
    if issubclass(worker_class, GuardMixin):
        return worker_class
    bases = (GuardMixin, *_draining(worker_class), worker_class)
    return type(f"Guarded{worker_class.__name__}", bases, {"asynchronous": is_asgi(worker_class)})


def _draining(worker_class: type) -> tuple[type, ...]:
    if not is_asgi(worker_class):
        return ()
    # late: they import asyncio, and uvicorn is an extra
    rooms = "django_workerguard.server.workers"
    if any(cls.__name__ == "UvicornWorker" for cls in worker_class.__mro__):
        return (import_module(f"{rooms}.uvicorn_server").DrainingUvicorn,)
    return (import_module(f"{rooms}.drain").DrainingASGI,)


def _nothing(_request: Any) -> None:
    """Take no note of a request."""


class GuardMixin(IgnoresHangup):
    """Loads with the sentinel, waits to be admitted, says when it accepts and when it leaves."""

    seat_handle: SeatHandle
    server: Any  # the arbiter, as gunicorn hands it to hooks; set after the fork
    asynchronous = False
    _announced = False
    _retiring = False
    _farewell_said = False
    _closer: Closer | None = None

    # gunicorn's base class, as far as it is leaned on
    cfg: Any
    log: Any
    ppid: int
    alive: bool
    reloader: Any
    sockets: list[Any]

    def take(self, handle: SeatHandle) -> None:
        """Give this worker its seat; called in the arbiter before the fork."""
        self.seat_handle = handle
        self.tmp: Any
        self.tmp.take(handle)

    def load_wsgi(self) -> None:
        if not die_with_parent(self.ppid):
            raise SystemExit(ExitCode.OK)
        release_seat_after_fork(self.seat_handle)
        if self.reloader is not None:
            self._leave_on_change(self.reloader)
        try:
            app = load.load(
                self.seat_handle,
                leaving=lambda: self.cfg.worker_exit(self.server, self),
                before=own_steps(self.cfg),
            )
        except BaseException:
            self._stay_or_leave()
            raise SystemExit(ExitCode.LOAD_FAILED) from None
        count = request_count(self.seat_handle.board.words, self.seat_handle.base)
        patient_listeners(self.sockets, count)
        if _waits_for_clients(type(self)):
            leave_silent_clients(self.sockets, self.cfg.timeout or SILENCE)
        self._log_again()
        self._wrap(app, count)
        import_module(load.SENTINEL).watch_memory_errors(count.memory_error)
        self._announce("announce_loaded")

    def _log_again(self) -> None:
        """Enable gunicorn's loggers again where the project's LOGGING has disabled all that were there before it."""
        loggers = [getattr(self.log, name, None) for name in ("error_log", "access_log")]
        known = logging.root.manager.loggerDict
        loggers += [known.get(name) for name in ("uvicorn.error", "uvicorn.access")]
        disabled = [one for one in loggers if isinstance(one, logging.Logger) and one.disabled]
        for logger in disabled:
            logger.disabled = False
        if disabled:
            names = " and ".join(logger.name for logger in disabled)
            self.log.warning(
                "the project's LOGGING disabled %s, enabled again here: set disable_existing_loggers to False",
                names,
            )

    def _leave_on_change(self, reloader: Any) -> None:
        """Have gunicorn's reloader stop every worker class: uvicorn's does not look at what it sets."""
        changed = reloader._callback

        def changed_and_left(name: str) -> None:
            try:
                changed(name)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        reloader._callback = changed_and_left

    def _stay_or_leave(self) -> None:
        if self.seat_handle.state == SeatState.UNLOADED:
            standin = import_module("django_workerguard.server.workers.stand_in")
            standin.attend(self)

    def _wrap(self, app: Callable[..., Any], count: RequestCount) -> None:
        health = HealthURLs(self.seat_handle)
        if self.asynchronous:
            import_module("gunicorn.instrument.statsd")  # gunicorn looks into it at the first request
            self.wsgi: Any = GuardedASGI(
                app, health, count, admit=self._admitted, failed=self._lifespan_failed
            )
            self.asgi = self.wsgi
        else:
            self._closer = close_without_waiting()
            chain_hooks(self, count, answered=self._closer.note if self._closer else _nothing)
            self.wsgi = GuardedWSGI(app, health)

    def run(self) -> None:
        if not self._has_lifespan and not load.wait_for_admission(self.seat_handle, alive=lambda: self.alive):
            return
        super().run()  # type: ignore[misc]
        if self._closer is not None:
            self._closer.finish()
        deadline = time.monotonic() + FAREWELL
        while self._retiring and not self._farewell_said and time.monotonic() < deadline:
            time.sleep(0.01)

    @property
    def _has_lifespan(self) -> bool:
        """Say whether the server will start the application's lifespan, which then waits for the admission."""
        if not self.asynchronous:
            return False
        uvicorn = getattr(self, "config", None)
        mode = getattr(uvicorn, "lifespan", None) or getattr(self.cfg, "asgi_lifespan", "auto")
        return bool(mode != "off")

    async def _admitted(self) -> None:
        import asyncio  # late: the arbiter must not load it before a gevent worker has patched it

        load.say_loaded(self.seat_handle)
        while self.alive and not self.seat_handle.ordered(Orders.ADMIT):
            await asyncio.sleep(0.002)

    def _lifespan_failed(self, error: BaseException) -> None:
        if self.seat_handle.state != SeatState.FAILED:
            load.record_failure(self.seat_handle, error)

    def notify(self) -> None:
        super().notify()  # type: ignore[misc]
        if not self._announced and self.seat_handle.state == SeatState.LOADED:
            self._announced = True
            self.notify = super().notify  # type: ignore[method-assign, misc] # every request comes by here
            self._watch_for_the_end()
            self.seat_handle.stamp(Seat.READY)
            self.seat_handle.say(SeatState.READY)

    def _watch_for_the_end(self) -> None:
        """Put a look at SIGTERM in front of whatever the worker class does about it."""
        before = signal.getsignal(signal.SIGTERM)

        def retiring(number: int, frame: Any) -> None:
            if not self._retiring:
                self._retiring = True
                self.seat_handle.say(SeatState.LEAVING)
                self._bid_farewell()
            if callable(before):
                before(number, frame)
            elif before is signal.SIG_DFL:
                raise SystemExit(ExitCode.OK)

        signal.signal(signal.SIGTERM, retiring)
        signal.siginterrupt(signal.SIGTERM, False)

    def handle_abort(self, sig: int, frame: Any) -> None:
        """Show what faulthandler cannot see, greenlets and tasks, before gunicorn ends the worker."""
        load.dump_concurrency(self.seat_handle, getattr(self, "loop", None))
        super().handle_abort(sig, frame)  # type: ignore[misc]

    def handle_abort_signal(self) -> None:
        load.dump_concurrency(self.seat_handle, getattr(self, "loop", None))
        super().handle_abort_signal()  # type: ignore[misc]

    def _bid_farewell(self) -> None:
        try:
            # not by threading.Thread, whose start() waits: a gevent hub may not
            _thread.start_new_thread(self._say_farewell, ())
        except RuntimeError:  # no thread is to be had, and what is in hand matters more
            self._farewell_said = True

    def _say_farewell(self) -> None:
        try:
            self._announce("announce_retiring")
        finally:
            self._farewell_said = True

    def _announce(self, what: str) -> None:
        """Send one of the package's Django signals, from where Django is loaded."""
        getattr(import_module(load.SENTINEL), what)(current_worker())
