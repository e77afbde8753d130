"""Where a child dumps its stacks when it is aborted or crashes: memory that its arbiter reads. Runs in the arbiter."""

from __future__ import annotations

import os

from django_workerguard.config.memfd import open_anonymous

LONGEST_DUMP = 1 << 20  # bytes


def open_dump() -> int:
    """Open where a child dumps its stacks; -1 where there is no descriptor left."""
    try:
        return open_anonymous("workerguard-stacks")
    except OSError:
        return -1


def read_dump(fd: int) -> str:
    """Return the stacks that a process has dumped."""
    if fd < 0:
        return ""
    size = min(os.fstat(fd).st_size, LONGEST_DUMP)
    return os.pread(fd, size, 0).decode(errors="replace")
