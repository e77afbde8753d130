"""Servers whose workers are forked from a mold, and what is done to a mold."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.process.harness import Server
from tests.process.limits import children

HOOKS = {"GUINEA_FORK_HOOKS": "1"}
SHORTAGES = {
    "memory": (resource.RLIMIT_AS, 0, "fork: Cannot allocate memory"),
    "descriptors": (resource.RLIMIT_NOFILE, 3, "scan: Too many open files"),
}


def mold_of(server) -> dict:
    return server.status()["mold"]


def serve_mold(serve, *arguments, worker_class="sync", guard=(), **options):
    server = serve("--load", "mold", *guard, "--", "-k", worker_class, *arguments, **options)
    server.wait_ready()
    return server


def is_whole(status: dict, workers: int, generation: int) -> bool:
    slots = status["slots"]
    return (
        status["ready"] == workers == len(slots)
        and {slot["generation"] for slot in slots} == {generation}
        and all(slot["pid"] and not slot["successor"] for slot in slots)
        and status["mold"]["state"] == "ready"
        and status["mold"]["generation"] == generation
    )


def wait_whole(server: Server, workers: int, generation: int) -> None:
    server.wait("the fleet is whole", lambda status: is_whole(status, workers, generation), 90)
    # the workers, the mold and the stand-in
    server._poll("no other child", lambda: len(children(server.arbiter)) == workers + 2, 60)


def newborn(server, known: set[int]) -> int:
    """Wait for a child of the arbiter that was not there before, and return its pid."""
    server._poll("a worker that is not adopted", lambda: children(server.arbiter) - known, 60)
    (pid,) = children(server.arbiter) - known
    return pid


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
