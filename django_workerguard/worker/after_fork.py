"""What a process does right after a fork: a child of the arbiter, and a process that the application forks from a worker.

A child gives up what is the arbiter's: its signal handlers and its descriptors. A process of the application's
inherits the worker's seat, its line to the arbiter and its signal handlers, and gives these up: a view that starts a
`multiprocessing.Process` and ends it by SIGTERM must not make the arbiter believe that the worker leaves.
Runs in children of the arbiter, and in processes that they fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from django_workerguard.worker.current import set_current_worker
from django_workerguard.worker.seat_handle import SeatHandle

PR_SET_PDEATHSIG = 1
RESET = [
    getattr(signal, f"SIG{name}")
    for name in ["HUP", "QUIT", "INT", "TERM", "TTIN", "TTOU", "USR1", "USR2", "WINCH", "CHLD", "IO", "ABRT"]
]
# whose handlers are the server's; a handler of the application's own stays
SERVERS = (
    "gunicorn.",
    "uvicorn.",
    "uvicorn_worker.",
    "asyncio.",
    "django_workerguard.",
    "uvloop",
    "billiard.",
)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold every signal back around a fork, so that none meets the arbiter's handlers in the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RESET)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_arbiter(descriptors: Iterable[int]) -> None:
    """Give up what belongs to the arbiter: its signal handlers and its descriptors."""
    for number in RESET:
        signal.signal(number, signal.SIG_DFL)
    for number in (
        signal.SIGUSR1,
        signal.SIGHUP,
    ):  # a log rotation or a hangup must not kill a worker that boots
        signal.signal(number, stay)
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)


def stay(_number: int, _frame: object) -> None:
    """Do nothing about a signal. Other than SIG_IGN it is not inherited by the programs that a worker starts."""


class IgnoresHangup:
    """A worker class whose processes SIGHUP leaves alone: it is the arbiter's, and a group of processes gets it whole."""

    def init_signals(self) -> None:
        super().init_signals()  # type: ignore[misc] # gunicorn's
        signal.signal(signal.SIGHUP, stay)
        signal.siginterrupt(signal.SIGHUP, False)


def die_with_parent(parent: int) -> bool:
    """Ask the kernel for SIGTERM when the parent dies; False if it is dead already.

    To be called after a change of user, which clears the request.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


def release_seat_after_fork(handle: SeatHandle) -> None:
    """Have every process that this worker forks from now on give up what is the worker's. Call it once a process."""
    worker = os.getpid()

    def give_up() -> None:
        if os.getpid() != worker:
            _give_up(handle)

    os.register_at_fork(after_in_child=give_up)


def _give_up(handle: SeatHandle) -> None:
    steps: tuple[Callable[[], object], ...] = (
        handle.board.make_private,
        lambda: _silence(handle.wake_fd),
        faulthandler.disable,
        lambda: signal.set_wakeup_fd(-1),  # an event loop's: the worker would take the signal for its own
        _restore_signals,
        lambda: set_current_worker(None),
    )
    for step in steps:
        try:
            step()
        except (OSError, ValueError):
            continue  # each is better than none: this process is the application's


def _silence(fd: int) -> None:
    """Lead a descriptor to /dev/null: its number must not become another file's."""
    if fd < 0:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _restore_signals() -> None:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and _is_servers(handler):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _is_servers(handler: Callable[..., object]) -> bool:
    return f"{getattr(handler, '__module__', None)}.".startswith(SERVERS)
