"""What the cgroup allows this process. Runs in the arbiter and in commands."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc/self")
NO_LIMIT_V1 = 1 << 60  # bytes; without a limit v1 says a number near to the largest there is


def cpus(*, root: Path = CGROUP, proc: Path = PROC) -> int:
    """Return how many CPUs this process may use: its affinity, limited by the cgroups' quotas (v2, v1)."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in own(root=root, proc=proc) if (quota := _quota_v2(group))]
    quota = min(quotas, default=None) or _quota_v1(root)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def memory(*, root: Path = CGROUP, proc: Path = PROC) -> tuple[int, int]:
    """Return the memory that the cgroup allows and that it uses, in bytes, where it is tightest; 0, 0: no limit.

    Used is what kubelet calls the working set: without the files in the page cache that nobody has touched
    for long, which the kernel drops before it kills.
    """
    groups = [
        (group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file")
        for group in own(root=root, proc=proc)
    ]
    v1 = root / "memory"  # in a container this is its own
    groups.append(
        (
            v1 / "memory.limit_in_bytes",
            v1 / "memory.usage_in_bytes",
            v1 / "memory.stat",
            "total_inactive_file",
        )
    )
    found = [
        (limit, max(0, used - (_counter(stat, cache) or 0)))
        for most, current, stat, cache in groups
        if 0 < (limit := _number(most)) < NO_LIMIT_V1 and (used := _number(current))
    ]
    return min(found, key=lambda pair: pair[0] - pair[1], default=(0, 0))


def oom_kills(*, root: Path = CGROUP, proc: Path = PROC) -> int:
    """Return how often the kernel has killed for want of memory: in this cgroup (v2), else on this machine."""
    for counters in (own(root=root, proc=proc)[0] / "memory.events", proc.parent / "vmstat"):
        if (kills := _counter(counters, "oom_kill")) is not None:
            return kills
    return 0


def _counter(path: Path, name: str) -> int | None:
    """Read a line ``name number`` of a file that has many; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return None


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max", or no such controller
        return 0


def own(*, root: Path = CGROUP, proc: Path = PROC) -> list[Path]:
    """List this process's cgroup (v2) and those around it, the innermost first."""
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    inside = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    group = root / inside.strip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(root: Path) -> float | None:
    try:
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None
