"""The kill of child processes, within a limited time. Runs in the arbiter, and in the command that starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

PATIENCE = 5.0  # seconds that the kernel gets to end the processes
INTERVAL = 0.01


def kill_and_collect(pids: Iterable[int], *, patience: float = PATIENCE) -> None:
    """Kill child processes and collect them, within ``patience`` seconds.

    The kernel may not end a process that hangs in a read, is frozen or is traced; this process goes on without it.
    """
    left = set(pids)
    for pid in left:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or is another user's
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + patience
    while left := {pid for pid in left if not _is_collected(pid)}:
        if time.monotonic() > deadline:
            return
        time.sleep(INTERVAL)


def _is_collected(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
