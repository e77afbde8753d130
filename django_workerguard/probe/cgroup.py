"""What the cgroup allows this process. Runs in the arbiter and in commands."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpus(*, root: Path = CGROUP) -> int:
    """Return how many CPUs this process may use: its affinity, limited by the cgroup's quota (v2, v1)."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_v2(root) or _quota_v1(root)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def _quota_v2(root: Path) -> float | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()
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
