"""The memory that this process's cgroups and its machine have left. Runs in the arbiter, on every tick.

It reads with plain descriptors and caches the directories, because a tick may cost at most 0.2 ms for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from django_workerguard.probe.cgroup import CGROUP, NO_LIMIT_V1, PROC, groups_v1, groups_v2

MACHINE = (b"MemAvailable:", b"SwapFree:")
CACHE_V2 = (b"inactive_file ", b"active_file ", b"file_mapped ", b"slab_reclaimable ")
CACHE_V1 = (b"total_inactive_file ", b"total_active_file ", b"total_mapped_file ")


class Headroom(NamedTuple):
    """``free``: bytes that may still be used before the kernel kills a process; None: unknown.

    It counts swap, and the page cache that the kernel can drop without taking its code from a process. ``limit`` and ``used`` are those of the cgroup with the
    least memory left; 0, 0: no limit. Used is kubelet's working set, which does not count inactive files in the page
    cache. ``pressure``: percent of the last ten seconds in which a process waited for memory (PSI); None: unknown.
    ``limits``: every limit of every level, the innermost first. They change only when somebody changes them.
    """

    free: int | None = None
    limit: int = 0
    used: int = 0
    pressure: float | None = None
    limits: tuple[int, ...] = ()


class _Level(NamedTuple):
    """One cgroup, in bytes: what it has left, its limit (0: none), its working set, and all its limits."""

    free: int
    limit: int
    used: int
    limits: tuple[int, ...]


class HeadroomReader:
    """Reads the headroom of this process again and again."""

    def __init__(self, *, root: Path = CGROUP, proc: Path = PROC) -> None:
        self._root, self._proc, self._machine = root, proc, str(proc.parent)
        self._names: bytes | None = None  # of the cgroups, as last read
        self._levels: list[tuple[Callable[[str, int], _Level | None], str]] = []  # the innermost first
        self._pressure = ""  # the file

    def read(self) -> Headroom:
        """Return the headroom now. A file that is missing or has no number in it is left out."""
        self._find()
        available, swap = (1024 * kilobytes for kilobytes in _numbers(f"{self._machine}/meminfo", *MACHINE))
        levels = [level for read, path in self._levels if (level := read(path, swap)) is not None]
        free = [level.free for level in levels]
        if available:
            free.append(available + swap)
        limited = [(level.limit, level.used) for level in levels if level.limit]
        limit, used = min(limited, key=lambda pair: pair[0] - pair[1], default=(0, 0))
        limits = tuple(number for level in levels for number in level.limits)
        return Headroom(max(0, min(free)) if free else None, limit, used, self._read_pressure(), limits)

    def _find(self) -> None:
        """Find the cgroups, unless this process is still in those that were found before."""
        read = _content(f"{self._proc}/cgroup")
        names = read or b""
        if names == self._names or (read is None and self._levels):  # it cannot be read now
            return
        v2 = groups_v2(root=self._root, proc=self._proc)
        self._levels = [(_v2, str(group)) for group in v2 if (group / "memory.max").exists()]
        v1 = groups_v1("memory", root=self._root, proc=self._proc)
        self._levels += [(_v1, str(group)) for group in v1 if (group / "memory.limit_in_bytes").exists()]
        self._names = names
        own = f"{v2[0]}/memory.pressure"
        self._pressure = own if os.path.exists(own) else f"{self._machine}/pressure/memory"

    def _read_pressure(self) -> float | None:
        try:
            some = (_content(self._pressure) or b"").split(b"avg10=", 1)[1]
            return float(some.split(None, 1)[0])
        except (IndexError, ValueError):
            return None


def _v2(path: str, swap: int) -> _Level | None:
    limit, high = _number(f"{path}/memory.max"), _number(f"{path}/memory.high")
    limits = tuple(most for most in (limit, high) if most is not None)
    used = _number(f"{path}/memory.current") if limits else None
    if used is None:
        return None
    inactive, active, mapped, slab = _numbers(f"{path}/memory.stat", *CACHE_V2)
    free = min(limits) - used + inactive + max(0, active - mapped) + slab
    if swap:
        most = _number(f"{path}/memory.swap.max")
        swapped = _number(f"{path}/memory.swap.current") or 0
        swap = swap if most is None else min(swap, max(0, most - swapped))
    return _Level(free + swap, limit or 0, max(0, used - inactive), limits)


def _v1(path: str, swap: int) -> _Level | None:
    limit, used = _limit_v1(f"{path}/memory.limit_in_bytes"), _number(f"{path}/memory.usage_in_bytes")
    both, swapped = _limit_v1(f"{path}/memory.memsw.limit_in_bytes"), None
    if both is not None:
        swapped = _number(f"{path}/memory.memsw.usage_in_bytes")
    if used is None or (limit is None and swapped is None):
        return None
    inactive, active, mapped = _numbers(f"{path}/memory.stat", *CACHE_V1)
    cache = inactive + max(0, active - mapped)
    left = [] if limit is None else [limit - used + cache + swap]
    if both is not None and swapped is not None:
        left.append(both - swapped + cache)
    limits = tuple(most for most in (limit, both) if most is not None)
    return _Level(min(left), limit or 0, max(0, used - inactive), limits)


def _content(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 16384)
    except OSError:  # PSI is compiled in and switched off
        return None
    finally:
        os.close(fd)


def _number(path: str) -> int | None:
    """Return the number in a file; None if there is none, as with "max"."""
    try:
        return max(0, int(_content(path) or b""))
    except ValueError:
        return None


def _limit_v1(path: str) -> int | None:
    limit = _number(path)
    return limit if limit is not None and limit < NO_LIMIT_V1 else None


def _numbers(path: str, *names: bytes) -> list[int]:
    """Return the number after each name of a file with a name and a number in each line; 0 if there is none."""
    content = b"\n" + (_content(path) or b"")
    return [_after(content, b"\n" + name) for name in names]


def _after(content: bytes, name: bytes) -> int:
    at = content.find(name)
    word = content[at + len(name) : at + len(name) + 32].split(None, 1)[:1] if at >= 0 else ()
    return int(word[0]) if word and word[0].isdigit() else 0
