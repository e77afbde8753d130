"""What a child does first after the fork, and how it dies with its parent. Runs in children of the arbiter."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable, Iterator

PR_SET_PDEATHSIG = 1
RESET = [
    getattr(signal, f"SIG{name}")
    for name in ["HUP", "QUIT", "INT", "TERM", "TTIN", "TTOU", "USR1", "USR2", "WINCH", "CHLD", "IO", "ABRT"]
]


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold every signal back around a fork, so that none meets the arbiter's handlers in the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RESET)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shed(descriptors: Iterable[int]) -> None:
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


class StaysOnHangup:
    """A worker class whose processes SIGHUP leaves alone: it is the arbiter's, and a group of processes gets it whole."""

    def init_signals(self) -> None:
        super().init_signals()  # type: ignore[misc] # gunicorn's
        signal.signal(signal.SIGHUP, stay)
        signal.siginterrupt(signal.SIGHUP, False)


def die_with(parent: int) -> bool:
    """Ask the kernel for SIGTERM when the parent dies; False if it is dead already.

    To be called after a change of user, which clears the request.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent
