"""Stack dumps. A child that is aborted or crashes writes its stacks into a file in memory, and its arbiter reads them. Runs in the arbiter."""

from __future__ import annotations

import os

from django_workerguard.config.memfd import open_anonymous

LONGEST_DUMP = 1 << 20  # bytes


def open_dump() -> int:
    """Return a descriptor for a child's stacks; -1 if no descriptor is free."""
    try:
        return open_anonymous("workerguard-stacks")
    except OSError:
        return -1


def read_dump(fd: int) -> str:
    """Return the stacks that a process has dumped; "" if it has dumped none."""
    if fd < 0:
        return ""
    size = min(os.fstat(fd).st_size, LONGEST_DUMP)
    return os.pread(fd, size, 0).decode(errors="replace")
