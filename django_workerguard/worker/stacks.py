"""Stacks of a worker, at its abort and whenever its arbiter asks for them. Runs in the worker.

Python writes them, as soon as the main thread runs Python: every thread, greenlet and asyncio task. All other threads stand
still meanwhile. faulthandler writes them in C, even while code in C holds the global interpreter lock. But if it reads
the stack of a thread that runs on, starts or ends, it can crash the process: a main thread that waits in C for a database
does not hold the lock. So at an abort it writes the main thread alone, and Python the others. If Python has not answered,
it is asked again: for the main thread, and on gthread for every thread. The form is that of faulthandler; `report.stacks`
reads it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextvars import Context
from itertools import islice
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, TextIO

from django_workerguard.scoreboard.stack_format import END, FORCED_STACKS_SIGNAL, STACKS_SIGNAL
from django_workerguard.worker.register import NO_REQUEST, current_request, start_of

MOST_FRAMES = 100
MOST_STACKS = 1000  # greenlets and tasks


def dump_at_abort(dump_fd: int) -> None:
    """Dump every stack if this process is aborted, and that of one thread if it crashes. Call it in the main thread.

    What handles SIGABRT now is called after faulthandler's dump. If nothing does, Python writes the other stacks, and the
    process ends.
    """
    if dump_fd < 0:
        return

    def abort(number: int, _frame: FrameType | None) -> None:
        dump_the_others(dump_fd)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    handler = signal.getsignal(signal.SIGABRT)
    # enabled already, by PYTHONFAULTHANDLER for example, faulthandler would not come before a handler that is newer
    faulthandler.disable()
    if handler is not None:  # the call before has brought back the handler that faulthandler had found
        signal.signal(signal.SIGABRT, abort if handler is signal.SIG_DFL else handler)
    faulthandler.enable(file=dump_fd, all_threads=False)


def dump_on_request(dump_fd: int) -> None:
    """Dump every stack when the arbiter sends STACKS_SIGNAL, and go on. Call it in the main thread.

    A handler of the site's own for that signal stays. The arbiter then sends FORCED_STACKS_SIGNAL, which would end a
    process that has no handler for it.
    """
    if dump_fd < 0:
        return
    if signal.getsignal(FORCED_STACKS_SIGNAL) is signal.SIG_DFL:
        faulthandler.register(FORCED_STACKS_SIGNAL, file=dump_fd, all_threads=False)
    before = signal.getsignal(STACKS_SIGNAL)
    if before is not signal.SIG_DFL and getattr(before, "__module__", "") != __name__:
        return

    def dump(_number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception), open(dump_fd, "a", closefd=False) as file:
            _write_threads(file, frame)
            write_concurrency(file)
            file.write(f"{END}\n")

    signal.signal(STACKS_SIGNAL, dump)


def force_every_thread(dump_fd: int) -> None:
    """Have FORCED_STACKS_SIGNAL dump every thread. Only for a worker whose main thread runs none of the site's code.

    If such a main thread does not answer, code in C holds the global interpreter lock, and no other thread runs on.
    """
    if dump_fd >= 0 and signal.getsignal(FORCED_STACKS_SIGNAL) is signal.SIG_DFL:
        faulthandler.register(FORCED_STACKS_SIGNAL, file=dump_fd, all_threads=True)


def _write_threads(file: TextIO, interrupted: FrameType | None) -> None:
    """Write the stack of every thread; of this one, which runs a signal handler, from the frame that was interrupted."""
    handlers = set(_frames(sys._getframe())) - set(_frames(interrupted))
    for identity, top in sys._current_frames().items():
        if top in handlers:
            _write_thread(file, "Current thread", identity, interrupted)
        else:
            _write_thread(file, "Thread", identity, top)


def _write_thread(file: TextIO, kind: str, identity: int, innermost: FrameType | None) -> None:
    file.write(f"{kind} 0x{identity:016x} (most recent call first):\n")
    file.writelines(_lines(_called_by(innermost)))
    file.write("\n")


def dump_the_others(dump_fd: int, loop: Any = None) -> None:
    """Write every stack but the calling thread's, before this process is aborted. Never raises.

    ``loop``: the event loop, if it is not running.
    """
    if dump_fd < 0:
        return
    with contextlib.suppress(Exception), open(dump_fd, "a", closefd=False) as file:
        for identity, top in sys._current_frames().items():
            if identity != get_ident():
                _write_thread(file, "Thread", identity, top)
        write_concurrency(file, loop)


def write_concurrency(file: TextIO, loop: Any = None) -> None:
    """Write which request each thread serves for an event loop, then every greenlet and every task."""
    file.writelines(
        f"Thread 0x{thread:016x} serves {started}\n" for thread, started in _threads_of_requests()
    )
    stacks = (*_greenlets(), *_tasks(loop))
    for kind, identity, name, frames in stacks[:MOST_STACKS]:
        file.write(f"\n{kind} 0x{identity:016x}{f' [{name}]' if name else ''} (most recent call first):\n")
        file.writelines(_lines(frames))


Frames = list[tuple[CodeType, int | None]]


def _lines(frames: Frames) -> Iterator[str]:
    for code, line in frames:
        yield f'  File "{code.co_filename}", line {line} in {code.co_name}\n'


def _greenlets() -> Iterator[tuple[str, int, str, Frames]]:
    library = sys.modules.get("greenlet")
    if library is None or "gevent" not in sys.modules:
        return
    main = library.getcurrent()
    while main.parent is not None:
        main = main.parent
    # gc does not list what was frozen before the load, such as the main greenlet; that of a request is younger
    younger = [found for found in gc.get_objects() if issubclass(type(found), library.greenlet)]
    for found in {id(one): one for one in (main, *younger)}.values():
        if found.gr_frame is not None:
            yield "Greenlet", id(found), "", _called_by(found.gr_frame)


def _tasks(loop: Any) -> Iterator[tuple[str, int, str, Frames]]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    running = asyncio._get_running_loop() or loop
    if running is None:
        return
    for task in asyncio.all_tasks(running):
        yield "Task", id(task), task.get_name(), _awaited_by(task.get_coro())


def _called_by(innermost: FrameType | None) -> Frames:
    """Return the frames from this one to the outermost."""
    return [(frame.f_code, frame.f_lineno) for frame in islice(_frames(innermost), MOST_FRAMES)]


def _awaited_by(awaitable: Any) -> Frames:
    """Return the frames of a coroutine and of whatever it awaits, the innermost first.

    What a coroutine that runs awaits must not be asked for: CPython looks for it on a stack that is not there then, and
    crashes. (A signal handler interrupts a coroutine most often where it goes on after an ``await``.)
    """
    frames: Frames = []
    while awaitable is not None and len(frames) < MOST_FRAMES:
        for prefix, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(type(awaitable), inner):
                frame = getattr(awaitable, f"{prefix}_frame")
                if getattr(awaitable, f"{prefix}_running", False):
                    return _called_in(frame)
                if frame is not None:
                    frames.append((frame.f_code, frame.f_lineno))
                awaitable = getattr(awaitable, inner)
                break
        else:
            break
    return frames[::-1]


def _called_in(outermost: FrameType | None) -> Frames:
    """Return the frames of the calling thread from the innermost, without those of this module, to this one."""
    frames: Frames = []
    for frame in _frames(sys._getframe()):
        if frame.f_code.co_filename != __file__:
            frames.append((frame.f_code, frame.f_lineno))
        if frame is outermost:
            return frames[:MOST_FRAMES]
    return [] if outermost is None else [(outermost.f_code, outermost.f_lineno)]


def _threads_of_requests() -> Iterator[tuple[int, int]]:
    """Yield each thread that works for a request of an event loop, with the start of the request.

    The code in the thread runs in a copy of the task's context. Python does not tell the context of another thread, but
    the frame that has entered it holds it: asgiref's for a synchronous view, for `asyncio.to_thread` that of an executor,
    or of our watch over one.
    """
    for thread, top in sys._current_frames().items():
        for code_frame in _frames(top):
            if code_frame.f_code.co_filename.endswith(ENTER_CONTEXTS):
                for context in _contexts(code_frame.f_locals.values()):
                    if started := start_of(context.get(current_request, NO_REQUEST)):
                        yield thread, started
                        break


ENTER_CONTEXTS = (
    os.path.join("asgiref", "sync.py"),
    os.path.join("concurrent", "futures", "thread.py"),
    os.path.join("server", "workers", "executors.py"),
)


def _contexts(values: Iterable[Any]) -> Iterator[Context]:
    """Yield the contexts among some values: each itself, by its method ``run``, or as what an executor is to run."""
    for value in values:
        job = getattr(value, "fn", value)
        entering = getattr(job, "func", job)
        context = entering if isinstance(entering, Context) else getattr(entering, "__self__", None)
        if isinstance(context, Context):
            yield context


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
