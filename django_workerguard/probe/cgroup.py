"""The limits of this process's cgroup. Runs in the arbiter and in commands."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc/self")
NOT_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors that say nothing of the file
NO_LIMIT_V1 = 1 << 60  # bytes; cgroup v1 reports "no limit" as a number near 2**63


def cpus(*, root: Path = CGROUP, proc: Path = PROC) -> int:
    """Return the number of CPUs that this process may use: its affinity, limited by the cgroups' quotas (v2, v1)."""
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in groups_v2(root=root, proc=proc) if (quota := _quota_v2(group))]
    quotas += [quota for group in groups_v1("cpu", root=root, proc=proc) if (quota := _quota_v1(group))]
    quota = min(quotas, default=None)
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def oom_kills(*, root: Path = CGROUP, proc: Path = PROC) -> int | None:
    """Return the number of OOM kills in this cgroup (v2, v1), or on this machine if the cgroup does not count them.

    None if it cannot be read now, for example because no descriptor is free: another file would count other kills.
    """
    try:
        v2 = counter(groups_v2(root=root, proc=proc)[0] / "memory.events", "oom_kill")
        if v2 is not None:
            return v2
        group = groups_v1("memory", root=root, proc=proc)[0]
        # each cgroup counts only its own kills
        paths = (group / "memory.oom_control", *group.glob("*/memory.oom_control"))
        v1 = [kills for path in paths if (kills := counter(path, "oom_kill")) is not None]
        return sum(v1) if v1 else counter(proc.parent / "vmstat", "oom_kill") or 0
    except OSError:
        return None


def counter(path: Path, name: str) -> int | None:
    """Return the number from the line ``name number`` of a file; None if there is no such line. Raises as `_text` does."""
    with contextlib.suppress(ValueError):
        for line in _text(path).splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return None


def groups_v2(*, root: Path = CGROUP, proc: Path = PROC) -> list[Path]:
    """List this process's cgroup (v2) and its parents, the innermost first."""
    return _with_parents(root, _path_of("", proc=proc))


def groups_v1(controller: str, *, root: Path, proc: Path) -> list[Path]:
    """List this process's cgroup of a controller (v1) and its parents, the innermost first.

    In a container, /proc has the host's path, which does not exist there; only the root does, and it is the container's
    own cgroup.
    """
    top = root / controller
    return [group for group in _with_parents(top, _path_of(controller, proc=proc)) if group.is_dir()] or [top]


def _with_parents(root: Path, inside: str) -> list[Path]:
    group = root / inside.strip("/")
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _path_of(controller: str, *, proc: Path) -> str:
    """Return the path of this process's cgroup for a controller; "" is the controller of v2."""
    lines = [line.split(":", 2) for line in _text(proc / "cgroup").splitlines()]
    return next((line[2] for line in lines if len(line) == 3 and controller in line[1].split(",")), "/")


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = _text(group / "cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int(_text(group / "cpu.cfs_quota_us"))
        period = int(_text(group / "cpu.cfs_period_us"))
        return quota / period if quota > 0 and period > 0 else None
    except ValueError:
        return None


def _text(path: Path) -> str:
    """Return the text of a file; "" if there is none. Raises OSError if only a want of descriptors or memory hides it."""
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        if error.errno in NOT_NOW:
            raise
        return ""
