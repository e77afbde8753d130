"""What memory a process has for itself, and what it shares. Runs in the arbiter and in readers."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from django_workerguard.probe.process import PROC


class Memory(NamedTuple):
    """The memory of a process in bytes: what only it has, resident or swapped out, and what others have mapped too."""

    private: int = 0
    shared: int = 0


def memory_of(pid: int, *, proc: str = PROC) -> Memory:
    """Return the memory of a process; zeros if it cannot be read, as that of another user's process."""
    private = shared = 0
    with (
        contextlib.suppress(OSError, IndexError, ValueError),
        open(f"{proc}/{pid}/smaps_rollup", "rb") as file,
    ):
        for line in file:
            if line.startswith((b"Private_Clean:", b"Private_Dirty:", b"Private_Hugetlb:", b"SwapPss:")):
                private += int(line.split()[1]) * 1024
            elif line.startswith((b"Shared_Clean:", b"Shared_Dirty:", b"Shared_Hugetlb:")):
                shared += int(line.split()[1]) * 1024
    return Memory(private, shared)
