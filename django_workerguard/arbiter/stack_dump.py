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
    """Return the stacks that a process has dumped from an offset on, the latest if they are long; "" if it has dumped none."""
    if fd < 0:
        return ""
    end = os.fstat(fd).st_size
    begin = max(offset, end - LONGEST_DUMP)
    # never more than there is: the arbiter may have no memory for a large buffer
    return os.pread(fd, max(0, end - begin), begin).decode(errors="replace")
