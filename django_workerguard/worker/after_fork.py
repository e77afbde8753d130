"""Clean-up right after a fork. Runs in children of the arbiter, and in processes that the application forks from a worker.

A child of the arbiter gives up the arbiter's signal handlers and descriptors. A process that the application forks
inherits the worker's seat, wake-up pipe and signal handlers, and gives them up: if a view starts a
`multiprocessing.Process` and ends it with SIGTERM, the arbiter must not believe that the worker is leaving.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django_workerguard.config.arbiter_signals import FOR_ARBITER, ignore_signals
from django_workerguard.worker.current import set_current_worker
from django_workerguard.worker.seat_handle import SeatHandle

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MORE_OOM_SCORE = 100  # as if it had a tenth of the memory more
MOST_OOM_SCORE = 1000
ARBITER_SIGNALS = [
    getattr(signal, f"SIG{name}")
    for name in ["HUP", "QUIT", "INT", "TERM", "TTIN", "TTOU", "USR1", "USR2", "WINCH", "CHLD", "IO", "ABRT"]
]
# modules whose signal handlers belong to the server; handlers of the application are kept
SERVER_MODULES = (
    "gunicorn.",
    "uvicorn.",
    "uvicorn_worker.",
    "asyncio.",
    "django_workerguard.",
    "uvloop",
    "billiard.",
)


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Block the arbiter's signals during a fork, so that no signal runs an arbiter's handler in the child."""
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, ARBITER_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def release_arbiter(descriptors: Iterable[int]) -> None:
    """Give up the arbiter's signal handlers, child processes and descriptors; a negative one is none."""
    for number in ARBITER_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    ignore_signals(
        signal.SIGUSR1, *FOR_ARBITER
    )  # a log rotation or a hangup must not kill a worker that is starting
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        multiprocessing._children = set()  # multiprocessing ends or awaits them before this process ends
    for fd in descriptors:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


class IgnoresSignalsForArbiter:
    """A worker class that leaves alone what is meant for the arbiter."""

    def init_signals(self) -> None:
        super().init_signals()  # type: ignore[misc] # gunicorn's
        ignore_signals(*FOR_ARBITER)


def die_with_parent(parent: int, *, by: int = signal.SIGTERM) -> bool:
    """Ask the kernel to send a signal when the parent dies; return False if it is already dead.

    Call it after a change of user, because that clears the request.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, by, 0, 0, 0)
    return os.getppid() == parent


def offer_to_oom_killer(*, proc: str = "/proc") -> None:
    """Have the kernel, out of memory, kill this process before others of its size, such as the arbiter or a mold.

    A worker is replaced and costs its own requests. Raising the score needs no right; lowering it would.
    """
    with contextlib.suppress(OSError, ValueError), open(f"{proc}/self/oom_score_adj", "r+") as file:
        score = int(file.read())
        file.seek(0)
        file.write(str(min(score + MORE_OOM_SCORE, MOST_OOM_SCORE)))


class _Owner:
    """The process that a seat belongs to."""

    handle: SeatHandle | None = None
    pid = 0
    has_hook = False


def become_subreaper() -> None:
    """Have the kernel make orphans among the descendants of this process its children. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot become a child subreaper")


def release_seat_after_fork(handle: SeatHandle) -> None:
    """Make every process that this one forks from now on give up the seat."""
    _Owner.handle, _Owner.pid = handle, os.getpid()
    if not _Owner.has_hook:
        _Owner.has_hook = True
        os.register_at_fork(after_in_child=_release_seat)


@contextlib.contextmanager
def keep_seat() -> Iterator[None]:
    """Let a process that is forked in the block keep what it needs of the seat: it becomes a worker with a seat of its own."""
    handle, _Owner.handle = _Owner.handle, None
    try:
        yield
    finally:
        if os.getpid() == _Owner.pid:
            _Owner.handle = handle


def _release_seat() -> None:
    handle = _Owner.handle
    if handle is None or os.getpid() == _Owner.pid:
        return
    steps: tuple[Callable[[], object], ...] = (
        handle.board.make_private,
        lambda: _redirect_to_devnull(handle.wake_fd),
        faulthandler.disable,
        lambda: signal.set_wakeup_fd(
            -1
        ),  # shared with the worker's event loop, which would act on the signal
        _restore_signals,
        lambda: set_current_worker(None),
    )
    for step in steps:
        try:
            step()
        except (OSError, ValueError):
            continue  # do the other steps: the application's process must go on


def _redirect_to_devnull(fd: int) -> None:
    """Redirect a descriptor to /dev/null. It is not closed, so that no other file gets its number."""
    if fd < 0:
        return
    devnull = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(devnull, fd, inheritable=False)
    os.close(devnull)


def _restore_signals() -> None:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and is_server_handler(handler):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def is_server_handler(handler: Callable[..., object]) -> bool:
    """Return whether a signal handler is one of the server's, and not the site's."""
    return f"{getattr(handler, '__module__', None)}.".startswith(SERVER_MODULES)
