"""A memory cgroup of the drill's own, for the shortage of memory. Runs in the drill's process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from django_workerguard.probe.cgroup import CGROUP, NO_LIMIT_V1, PROC, counter, groups_v1, groups_v2
from django_workerguard.values import value_class

V1, V2 = "memory.limit_in_bytes", "memory.max"
USED = {V1: "memory.usage_in_bytes", V2: "memory.current"}
# of memory.stat: the page cache, and what of it is mapped into processes
CACHE = {
    V1: ("total_inactive_file", "total_active_file", "total_mapped_file"),
    V2: ("inactive_file", "active_file", "file_mapped"),
}
OOM_KILLS = {V1: "memory.oom_control", V2: "memory.events"}
NO_LIMIT = {V1: "-1", V2: "max"}
END_PATIENCE = 5.0  # seconds


class NoCgroupError(Exception):
    """No cgroup can be made here. The message says why."""


@value_class
class MemoryGroup:
    """A cgroup with the memory controller, v1 or v2."""

    directory: Path
    limit_file: str

    def prefix(self) -> tuple[str, ...]:
        """Return the words that start a command in the cgroup."""
        return "/bin/sh", "-c", f'echo $$ > "{self.directory}/cgroup.procs" && exec "$0" "$@"'

    def used(self) -> int:
        """Return the memory in use, in bytes, without the page cache that the kernel can drop at no cost to a process."""
        used = int((self.directory / USED[self.limit_file]).read_text())
        lines = (self.directory / "memory.stat").read_text().splitlines()
        stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
        inactive, active, mapped = (stat.get(name, 0) for name in CACHE[self.limit_file])
        return max(0, used - inactive - max(0, active - mapped))

    def oom_kills(self) -> int:
        """Return how many processes in the cgroup the kernel has killed because memory ran out."""
        return counter(self.directory / OOM_KILLS[self.limit_file], "oom_kill") or 0

    def limit(self, size: int | None) -> None:
        """Set the limit in bytes; None: no limit. Raises OSError if the memory in use cannot be brought below it."""
        text = NO_LIMIT[self.limit_file] if size is None else str(size)
        (self.directory / self.limit_file).write_text(text)

    def remove(self) -> None:
        """Remove the cgroup and end what is left in it."""
        deadline = time.monotonic() + END_PATIENCE
        while self.directory.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                for pid in (self.directory / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            time.sleep(0.02)


def make(*, root: Path = CGROUP, proc: Path = PROC) -> MemoryGroup:
    """Make a cgroup below this process's own, else higher up, but below every limit that holds for this process.

    Raises NoCgroupError.
    """
    problems = []
    for parent in _parents(root, proc):
        directory = parent / f"workerguard-drill-{os.getpid()}"
        try:
            directory.mkdir()
        except OSError as error:
            problem = str(error.strerror)
        else:
            problem = _problem(directory)
            if not problem:
                return MemoryGroup(directory, V2 if (directory / V2).exists() else V1)
            with contextlib.suppress(OSError):
                directory.rmdir()
        problems.append(f"{parent}: {problem}")
        if _is_limited(parent):
            problems.append("a cgroup further up would escape its limit")
            break
    raise NoCgroupError(f"no memory cgroup can be made ({'; '.join(problems) or 'there are none here'})")


def _parents(root: Path, proc: Path) -> Iterator[Path]:
    if (root / "memory").is_dir():
        yield from groups_v1("memory", root=root, proc=proc)
    else:
        yield from (group for group in groups_v2(root=root, proc=proc) if group.is_dir())


def _is_limited(group: Path) -> bool:
    for name in (V1, V2):
        with contextlib.suppress(OSError, ValueError):
            return int((group / name).read_text()) < NO_LIMIT_V1
    return False


def _problem(directory: Path) -> str:
    """Return why a new cgroup cannot be used, "" if it can."""
    files = [name for name in (V1, V2) if (directory / name).exists()]
    if not files:
        return "it has no memory controller"
    if not os.access(directory / files[0], os.W_OK):
        return "its limit may not be set"
    done = subprocess.run(
        [*MemoryGroup(directory, files[0]).prefix(), "true"], capture_output=True, text=True, check=False
    )
    return (done.stderr.strip().rpartition(": ")[2] or "no process may enter it") if done.returncode else ""
