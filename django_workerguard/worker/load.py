"""The load of one worker, from the fork to its admission. Runs in the worker."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from types import FrameType
from typing import Any, TypeVar

from django_workerguard.config.load_request import Step, unaccepted
from django_workerguard.errors import ExitCode
from django_workerguard.policy.failure import is_transient, is_want_of_memory
from django_workerguard.scoreboard.layout import Cause, Orders, Seat, SeatState
from django_workerguard.worker import garbage
from django_workerguard.worker.current import CurrentWorker, set_current_worker
from django_workerguard.worker.package_sources import changed_packages
from django_workerguard.worker.seat_handle import SeatHandle
from django_workerguard.worker.stacks import dump_at_abort, dump_on_request

# bytes of address space, never touched; released to have memory for reporting a failed load
RESERVE = 4 << 20
SENTINEL = "django_workerguard.sentinel"
Loaded = TypeVar("Loaded")
Application = Callable[..., Any]
DIRECT = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class SeatReporter:
    """Writes each step of the load into the seat when it begins and ends, so that the step of a hang is known."""

    def __init__(self, handle: SeatHandle) -> None:
        self._handle = handle
        self.steps: list[dict[str, Any]] = []
        self.current: str | None = None
        self._outdated = changed_packages()

    def begin(self, name: str) -> None:
        self.current = name
        self._write()

    def end(self, step: Step) -> None:
        self.current = None
        accepted = self._handle.options.accept_left_behind
        self.steps.append(asdict(replace(step, left=unaccepted(step, accepted))))
        self._write()

    def _write(self, **more: Any) -> None:
        report = {"step": self.current, "steps": self.steps, "outdated": self._outdated, **more}
        self._handle.board.write_seat_report(self._handle.seat, report)

    def fail(self, error: dict[str, Any]) -> None:
        self._write(error=error)

    def unfit(self, hazards: list[str]) -> None:
        """Report why no worker can be forked from this process."""
        self._write(hazards=hazards)


def load(
    handle: SeatHandle,
    *,
    on_stop: Callable[[], None],
    server_steps: Mapping[str, Callable[[], None]] | None = None,
    loaded: Application | None = None,
) -> Application:
    """Load the application with the sentinel, verify it and return it.

    Any error is written into the seat and raised again. If the worker is asked to leave during the load, ``on_stop`` is
    called and the process ends. ``server_steps``: steps of the server, by name, that run first. ``loaded``: the
    application that the mold has loaded, if this process was forked from one; only what no fork can share is left to do.
    """

    def application(sentinel: Any, reporter: SeatReporter) -> Application:
        if loaded is not None:
            _SiteSignals.set_again()
            with sentinel.measure_step("resume", reporter, shareable=False):
                sentinel.resume()
        for name, step in (server_steps or {}).items():
            with sentinel.measure_step(name, reporter, shareable=False):
                step()
        app: Application = loaded or sentinel.load_shared(handle.request, reporter, in_mold=False)
        sentinel.load_own(app, handle.request, reporter, forked=loaded is not None)
        return app

    with _direct_signals(handle, on_stop):
        if loaded is not None:
            garbage.resume()
        return attempt(handle, application)


def load_in_mold(handle: SeatHandle) -> tuple[Application, SeatReporter]:
    """Load in a mold what its workers share, and settle it for the forks; return it with the reporter of its steps.

    Any error is written into the seat and raised again. Afterwards signals are still handled at once.
    """
    reporters = []

    def application(sentinel: Any, reporter: SeatReporter) -> Application:
        reporters.append(reporter)
        app: Application = sentinel.load_shared(handle.request, reporter, in_mold=True)
        with sentinel.measure_step("settle", reporter, shareable=False):
            sentinel.settle()
        return app

    take_signals(handle, on_stop=lambda: None)
    garbage.pause()
    with _SiteSignals.noted():
        app = attempt(handle, application)
    take_signals(handle, on_stop=lambda: None)  # the site may have set handlers of its own
    # what is garbage now would be copied by each worker when it is collected there
    gc.collect()
    gc.freeze()
    return app, reporters[0]


class _SiteSignals:
    """The signal handlers that the site has set during its load in the mold. A worker class resets signals when it starts."""

    handlers: Mapping[int, Any] = {}

    @classmethod
    @contextlib.contextmanager
    def noted(cls) -> Iterator[None]:
        """Note what the block sets."""
        before = {number: signal.getsignal(number) for number in signal.valid_signals()}
        yield
        after = {number: signal.getsignal(number) for number in before.keys() - {*DIRECT, signal.SIGABRT}}
        cls.handlers = {
            number: handler
            for number, handler in after.items()
            if handler is not None and handler is not before[number]
        }

    @classmethod
    def set_again(cls) -> None:
        """Set the handlers in a worker, as its own load would have done."""
        for number, handler in cls.handlers.items():
            signal.signal(number, handler)


def attempt(handle: SeatHandle, work: Callable[[Any, SeatReporter], Loaded]) -> Loaded:
    """Run ``work``, the load itself, with the sentinel and a reporter as arguments, and return its result.

    Any error is written into the seat and raised again.
    """
    reporter = SeatReporter(handle)
    set_current_worker(
        CurrentWorker(
            slot=handle.slot,
            pid=os.getpid(),
            generation=handle.generation,
            seat=handle.seat,
            board=handle.board,
            options=handle.options,
        )
    )
    handle.set_state(SeatState.LOADING)
    # objects of the parent: the garbage collector would write to their memory pages and so copy each page
    gc.freeze()
    with contextlib.ExitStack() as reserve:
        with contextlib.suppress(OSError):  # the reserve is not essential
            reserve.enter_context(mmap.mmap(-1, RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        try:
            with garbage.collected_rarely():
                sentinel = import_module(SENTINEL)
                loaded = work(sentinel, reporter)
            handle.board.write_release(handle.seat, sentinel.release(handle.request.release))
        except BaseException as error:
            reserve.close()
            record_failure(handle, error, reporter)
            raise
    return loaded


@contextlib.contextmanager
def _direct_signals(handle: SeatHandle, on_stop: Callable[[], None]) -> Iterator[None]:
    """Take the signals during the load."""
    before = {number: signal.getsignal(number) for number in (*DIRECT, signal.SIGABRT)}
    take_signals(handle, on_stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        dump_stacks(handle)


def take_signals(handle: SeatHandle, on_stop: Callable[[], None]) -> None:
    """Handle signals at once, and let SIGABRT dump every stack.

    asyncio worker classes queue signals until their event loop runs, and a load that hangs never starts it.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        try:
            on_stop()
        finally:
            os._exit(ExitCode.OK)

    for number in DIRECT:
        signal.signal(number, leave)
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    dump_stacks(handle)


def dump_stacks(handle: SeatHandle) -> None:
    """Dump the stacks of this process if it is aborted or crashes, and whenever the arbiter asks for them."""
    handle.board.words[handle.base + Seat.MAIN_THREAD] = threading.get_ident()
    dump_at_abort(handle.dump_fd)
    dump_on_request(handle.dump_fd)


def record_failure(handle: SeatHandle, error: BaseException, reporter: SeatReporter | None = None) -> None:
    """Write the error of a failed load into the seat, then set the seat's state; also call ``sys.excepthook``."""
    reporter = reporter or SeatReporter(handle)
    with contextlib.suppress(Exception):  # want of memory
        import_module("django_workerguard.worker.absent_modules").add_hint(error)
    names = class_names(error)
    cause = Cause.TRANSIENT if is_transient(names) else Cause.NONE
    handle.board.words[handle.base + Seat.CAUSE] = cause | (Cause.MEMORY if is_want_of_memory(names) else 0)
    with contextlib.suppress(MemoryError):
        reporter.fail(_failure_details(error, reporter.current))
    stays = handle.has_order(Orders.STAY)
    handle.set_state(SeatState.UNLOADED if stays else SeatState.FAILED)
    if sys.excepthook is not sys.__excepthook__:
        with contextlib.suppress(BaseException):
            sys.excepthook(type(error), error, error.__traceback__)


def _failure_details(error: BaseException, step: str | None) -> dict[str, Any]:
    try:
        details: dict[str, Any] = dict(import_module(SENTINEL).describe_failure(error))
    except BaseException:
        details = _minimal_details(error)
    return {**details, "step": step, "at": time.time()}


def _minimal_details(error: BaseException) -> dict[str, Any]:
    """Describe a failure if the sentinel cannot be imported, or there is not enough memory for it."""
    errno = getattr(error, "errno", None)
    message = os.strerror(errno) if isinstance(error, OSError) and isinstance(errno, int) else ""
    details = {"type": type(error).__name__, "message": message}
    with contextlib.suppress(BaseException):
        lines = traceback.format_tb(error.__traceback__, limit=-5)
        return {**details, "traceback": "".join(lines)}
    return {**details, "traceback": ""}


def class_names(error: BaseException) -> set[str]:
    """Return the class names of an error and of its causes, base classes included."""
    names: set[str] = set()
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        names.update(cls.__name__ for cls in type(cause).__mro__)
        cause = cause.__cause__ or cause.__context__
    return names


def mark_loaded(handle: SeatHandle) -> None:
    """Mark the load as complete; the worker then waits for its admission."""
    handle.stamp(Seat.LOAD_END)
    handle.set_state(SeatState.LOADED)


def wait_for_admission(handle: SeatHandle, *, alive: Callable[[], bool]) -> bool:
    """Wait until the arbiter admits this worker; return False if the worker must leave instead."""
    mark_loaded(handle)
    while not handle.has_order(Orders.ADMIT):
        if not alive():
            return False
        time.sleep(0.002)
    return True


def mark_ready(handle: SeatHandle) -> None:
    """Mark the worker as ready: it accepts requests, or takes tasks."""
    handle.stamp(Seat.READY)
    handle.set_state(SeatState.READY)
