"""Stack dumps. A child that is aborted or crashes writes its stacks into a file in memory, and its arbiter reads them. Runs in the arbiter."""

from __future__ import annotations

import fcntl
import os

from django_workerguard.config.memfd import open_anonymous

LONGEST_DUMP = 1 << 20  # bytes


def open_dump() -> int:
    """Return a descriptor for a child's stacks; -1 if no descriptor is free."""
    try:
        fd = open_anonymous("workerguard-stacks")
    except OSError:
        return -1
    # every writer writes at the end, also after the file was emptied
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def read_dump(fd: int, offset: int = 0) -> str:
    """Return the stacks that a process has dumped from an offset on; "" if it has dumped none."""
    return os.pread(fd, LONGEST_DUMP, offset).decode(errors="replace") if fd >= 0 else ""
