"""A server in a cgroup, and the room that it has there."""

from __future__ import annotations

from pathlib import Path

from tests.process.limits import limit_file

MB = 1 << 20


def inside(group: Path) -> tuple[str, ...]:
    """Return the words that start a command in a cgroup."""
    return "sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'


def oom_kills(group: Path) -> int:
    counters = [group / name for name in ("memory.events", "memory.oom_control")]
    lines = next(counter for counter in counters if counter.exists()).read_text().splitlines()
    return int(dict(line.split() for line in lines)["oom_kill"])


def leave(server, group: Path, room: int) -> None:
    """Set the limit of a cgroup: the memory that its server uses now, and a number of bytes more."""
    whole = 4096 * MB
    limit_file(group).write_text(str(whole))
    status = server.wait("the limit is known", lambda status: status["limits"]["memory_bytes"] == whole)
    limit_file(group).write_text(str(whole - status["limits"]["memory_available_bytes"] + room))
    server.wait("the limit is known", lambda status: 0 < status["limits"]["memory_bytes"] < whole)


def pids(status) -> set[int]:
    """Return the processes of one look at the server: a second look may show another moment."""
    return {slot["pid"] for slot in status["slots"]}
