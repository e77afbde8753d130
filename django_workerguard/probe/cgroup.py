"""What the cgroup allows this process. Runs in the arbiter and in commands."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc/self")


def cpus(*, root: Path = CGROUP, proc: Path = PROC) -> int:
    """Return how many CPUs this process may use: its affinity, limited by the cgroups' quotas (v2, v1)."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in own(root=root, proc=proc) if (quota := _quota_v2(group))]
    quota = min(quotas, default=None) or _quota_v1(root)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def memory(*, root: Path = CGROUP, proc: Path = PROC) -> tuple[int, int]:
    """Return the memory that the cgroup allows and that it uses, in bytes, where it is tightest; 0, 0: no limit (v2)."""
    found = [
        (limit, used)
        for group in own(root=root, proc=proc)
        if (limit := _number(group / "memory.max")) and (used := _number(group / "memory.current"))
    ]
    return min(found, key=lambda pair: pair[0] - pair[1], default=(0, 0))


def oom_kills(*, root: Path = CGROUP, proc: Path = PROC) -> int:
    """Return how often the kernel has killed for want of memory: in this cgroup (v2), else on this machine."""
    for counters in (own(root=root, proc=proc)[0] / "memory.events", proc.parent / "vmstat"):
        with contextlib.suppress(OSError, ValueError):
            for line in counters.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


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
