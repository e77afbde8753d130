"""The load of one worker, from the fork to the admission. Runs in the child."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import mmap
import os
import signal
import sys
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
from django_workerguard.worker.current import CurrentWorker, set_current_worker
from django_workerguard.worker.package_sources import changed_packages
from django_workerguard.worker.seat_handle import SeatHandle

# bytes of address space, none of it touched, that are given up when there is no memory to report a failure with
RESERVE = 4 << 20
SENTINEL = "django_workerguard.sentinel"
Loaded = TypeVar("Loaded")
DIRECT = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class SeatReporter:
    """Writes the load's steps into the seat as they happen, so that a hang shows where."""

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


def load(
    handle: SeatHandle, *, leaving: Callable[[], None], before: Mapping[str, Callable[[], None]] | None = None
) -> Callable[..., Any]:
    """Load the application with the sentinel and return it, verified.

    Whatever goes wrong is written into the seat and raised on. ``leaving`` is called
    when the worker is asked to leave in the middle of it, which ends the process. ``before``:
    steps of the server's own that come first, by name.
    """

    def application(sentinel: Any, reporter: SeatReporter) -> Callable[..., Any]:
        for name, step in (before or {}).items():
            with sentinel.measured(name, reporter, shareable=False):
                step()
        app: Callable[..., Any] = sentinel.load(handle.request, reporter)
        return app

    with _direct_signals(handle, leaving):
        return attempt(handle, application)


def attempt(handle: SeatHandle, work: Callable[[Any, SeatReporter], Loaded]) -> Loaded:
    """Do the work of a load under the sentinel's eyes, which is handed to it, and return what it returns.

    Whatever goes wrong is written into the seat and raised on.
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
    handle.say(SeatState.LOADING)
    # what is there came from the parent: the collector would write into its pages, and so copy each of them
    gc.freeze()
    with contextlib.ExitStack() as reserve:
        with contextlib.suppress(OSError):  # a load without a reserve is still a load
            reserve.enter_context(mmap.mmap(-1, RESERVE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        try:
            sentinel = import_module(SENTINEL)
            loaded = work(sentinel, reporter)
            handle.board.write_release(handle.seat, sentinel.release(handle.request.release))
        except BaseException as error:
            reserve.close()
            record_failure(handle, error, reporter)
            raise
    return loaded


@contextlib.contextmanager
def _direct_signals(handle: SeatHandle, leaving: Callable[[], None]) -> Iterator[None]:
    """Handle signals at once, and let SIGABRT dump every thread's stack, while the load runs.

    asyncio worker classes queue signals until their loop runs, which a hung load prevents.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        try:
            leaving()
        finally:
            os._exit(ExitCode.OK)

    def abort(number: int, _frame: FrameType | None) -> None:
        dump_concurrency(handle)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = {number: signal.getsignal(number) for number in (*DIRECT, signal.SIGABRT)}
    for number in DIRECT:
        signal.signal(number, leave)
    signal.signal(signal.SIGABRT, abort)
    dump_stacks(handle)
    try:
        yield
    finally:
        faulthandler.disable()
        for number, handler in before.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        dump_stacks(handle)


def dump_stacks(handle: SeatHandle) -> None:
    """Have every thread's stack dumped where this process is aborted or crashes, even in C."""
    if handle.dump_fd >= 0:
        faulthandler.enable(file=handle.dump_fd, all_threads=True)


def dump_concurrency(handle: SeatHandle, loop: Any = None) -> None:
    """Dump what faulthandler cannot see: greenlets, and the tasks of a running event loop."""
    if handle.dump_fd < 0:
        return
    with os.fdopen(os.dup(handle.dump_fd), "a") as file:
        if "gevent" in sys.modules:
            gc.unfreeze()  # gevent finds its greenlets among the objects that the collector looks at
            import_module("gevent.util").print_run_info(file=file)
        if "asyncio" in sys.modules and loop is not None:
            for task in sys.modules["asyncio"].all_tasks(loop):
                task.print_stack(file=file)


def record_failure(handle: SeatHandle, error: BaseException, reporter: SeatReporter | None = None) -> None:
    """Write why the load failed into the seat, then say so; report it to ``sys.excepthook`` too."""
    reporter = reporter or SeatReporter(handle)
    names = class_names(error)
    cause = Cause.TRANSIENT if is_transient(names) else Cause.NONE
    handle.board.words[handle.base + Seat.CAUSE] = cause | (Cause.MEMORY if is_want_of_memory(names) else 0)
    with contextlib.suppress(MemoryError):
        reporter.fail(_described(error, reporter.current))
    stays = handle.ordered(Orders.STAY)
    handle.say(SeatState.UNLOADED if stays else SeatState.FAILED)
    if sys.excepthook is not sys.__excepthook__:
        with contextlib.suppress(BaseException):
            sys.excepthook(type(error), error, error.__traceback__)


def _described(error: BaseException, step: str | None) -> dict[str, Any]:
    try:
        described: dict[str, Any] = dict(import_module(SENTINEL).describe_failure(error))
    except BaseException:
        described = _described_plainly(error)
    return {**described, "step": step, "at": time.time()}


def _described_plainly(error: BaseException) -> dict[str, Any]:
    """Describe a failure where not even the sentinel can be imported, or there is no memory for it."""
    errno = getattr(error, "errno", None)
    message = os.strerror(errno) if isinstance(error, OSError) and isinstance(errno, int) else ""
    described = {"type": type(error).__name__, "message": message}
    with contextlib.suppress(BaseException):
        lines = traceback.format_tb(error.__traceback__, limit=-5)
        return {**described, "traceback": "".join(lines)}
    return {**described, "traceback": ""}


def class_names(error: BaseException) -> set[str]:
    """Return the names of a failure's classes and of those of its causes."""
    names: set[str] = set()
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        names.update(cls.__name__ for cls in type(cause).__mro__)
        cause = cause.__cause__ or cause.__context__
    return names


def say_loaded(handle: SeatHandle) -> None:
    """Say that everything that belongs to the load has passed; what is left is the admission."""
    handle.stamp(Seat.LOAD_END)
    handle.say(SeatState.LOADED)


def wait_for_admission(handle: SeatHandle, *, alive: Callable[[], bool]) -> bool:
    """Wait until the arbiter lets this worker accept; False if it is to leave instead."""
    say_loaded(handle)
    while not handle.ordered(Orders.ADMIT):
        if not alive():
            return False
        time.sleep(0.002)
    return True
