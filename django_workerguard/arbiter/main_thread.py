"""Signals for the main thread of a child, where Python runs its handlers. Runs in the arbiter and in
``--check``.

The kernel gives a signal that is sent to a process to any thread that takes it: to another than the main one while that
one blocks signals, as it does while it starts a thread. Python then learns of the signal, but the main thread may sleep
on, and the handler is not run: a worker that hangs would not see its abort. SIGKILL needs no handler, and would not reach
a process whose main thread has exited.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

_tgkill: Callable[[int, int, int], int] | Any = getattr(ctypes.CDLL(None, use_errno=True), "tgkill", None)


def signal_main_thread(pid: int, number: int) -> None:
    """Send a signal to the main thread of a process; SIGKILL to all of it. Raises OSError, as `os.kill` does."""
    if number == signal.SIGKILL or _tgkill is None:  # None: a C library without it
        os.kill(pid, number)
    elif _tgkill(pid, pid, number) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
