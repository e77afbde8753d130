"""A pid file that a dead server has left behind. Runs in the arbiter, at its start.

gunicorn takes any live process for the server of the file. After a crash the number may belong to another program.
"""

from __future__ import annotations

import os
from pathlib import Path

from django_workerguard.errors import AlreadyRunningError
from django_workerguard.probe.process import started_at

SERVERS = (b"gunicorn", b"django_workerguard")
LARGEST_PID = (1 << 31) - 1
SLACK = 2.0  # seconds: the start of a process and the time of a file are of different clocks


def remove_stale(path: str, *, where: str | None) -> str | None:
    """Remove the file if no server that runs has written it, and say so in a line; None if there was nothing to do.

    Raises AlreadyRunningError if its server runs.
    """
    file = Path(path)
    try:
        pid, written = int(file.read_text()), file.stat().st_mtime
    except (OSError, ValueError):
        return None  # gunicorn replaces what is no pid, and reports what it cannot replace
    why = _why_stale(pid, written)
    if pid == os.getpid() or why is None:
        return None
    if not why:
        raise AlreadyRunningError(
            f"the server with pid {pid} runs, and {path!r} is its pid file", option="pidfile", where=where
        )
    file.unlink(missing_ok=True)
    return f"the pid file {path} was stale and has been removed: {why}"


def _why_stale(pid: int, written: float) -> str | None:
    """Say why a process cannot be the server of the file; "" if it may be, None if the process has ended."""
    if not 0 < pid <= LARGEST_PID:  # gunicorn would send its signal to a group of processes
        return f"{pid} is no pid"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    began = started_at(pid)
    if began is not None and began > written + SLACK:
        return f"process {pid} was started after the file was written"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return "" if any(server in command for server in SERVERS) else f"process {pid} is not a server"
