"""The server under test of our own process tests: the package's, on the projects of this directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_workerguard.testing import UnixConnection, WaitError
from django_workerguard.testing import server as testing
from tests.process.limits import children

__all__ = [
    "LONG_ENOUGH",
    "PROJECT",
    "ROOT",
    "TIMEOUT",
    "UNSHARE",
    "WORKER_CLASSES",
    "Faults",
    "Reply",
    "Server",
    "Since",
    "UnixConnection",
    "WaitError",
    "assert_answered_by",
    "assert_healed",
    "threads",
    "wait_whole",
]

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Path(__file__).parent / "guinea"
TIMEOUT = testing.TIMEOUT
# what starts a command in a process namespace of its own
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
LONG_ENOUGH = "8s"  # for an honest load on a busy machine; a hang outlasts it

WORKER_CLASSES = {
    "sync": "sync",
    "gthread": "gthread",
    "gevent": "gevent",
    "asgi": "asgi",
    "uvicorn": "uvicorn_worker.UvicornWorker",
}


def threads(worker_class: str) -> tuple[str, ...]:
    """Return the options that give a worker of several threads four of them."""
    return ("--threads", "4") if worker_class == "gthread" else ()


@dataclass(frozen=True)
class Reply(testing.Reply):
    """An answer of the guinea project, which says who gave it."""

    @property
    def pid(self) -> int:
        return int(self.headers["x-worker-pid"])


@dataclass
class Server(testing.GuardedServer):
    """A server on a project of ours, with nothing of the environment that a test did not ask for."""

    def __post_init__(self) -> None:
        ours = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        theirs = {name: None for name in os.environ if name.startswith(("DJANGO_", "TZ"))}
        self.environ = {**theirs, **ours, **self.environ}

    def get(self, path: str = "/", **options: object) -> Reply:
        reply = super().get(path, **options)
        return Reply(reply.status, reply.headers, reply.body)


class Since:
    """The events of a server after this moment, for the parts of a test that share one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._last = server.events()[-1]["number"]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self._server.events(name) if event["number"] > self._last]

    def wait(
        self, name: str, matching: Callable[[dict[str, Any]], Any] = bool, count: int = 1
    ) -> dict[str, Any]:
        return self._server.wait_event(
            name, lambda event: event["number"] > self._last and matching(event), count
        )


class Faults:
    """The directory of fault files that the project looks at, in workers only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def set(self, place: str, kind: str, times: int | None = None) -> None:
        """Make a place in the project fail in one way: the next ``times`` times, or without ``times`` until `clear`."""
        temporary = self.directory / f".{place}"
        temporary.write_text(kind if times is None else f"{kind} {times}")
        temporary.rename(self.directory / place)

    def used_up(self, place: str) -> bool:
        """Say whether the last of the counted faults was taken."""
        return (self.directory / place).read_text().rstrip().endswith(" 0")

    def clear(self) -> None:
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)


def wait_whole(server: Server, workers: int = 2) -> None:
    """Wait until all workers of a server are ready, and it has no other child than them and the stand-in."""
    server.wait_ready(workers)
    server._poll("no other child", lambda: len(children(server.arbiter)) == workers + 1, TIMEOUT)


def assert_answered_by(server: Server, pids: set[int], failed: dict[str, Any]) -> None:
    """Ask some requests after a load has failed. A load that began after it may have succeeded meanwhile."""
    replies = [server.get("/") for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    later = {event["pid"] for event in server.events("spawned") if event["number"] > failed["number"]}
    assert {reply.pid for reply in replies} <= pids | later


def assert_healed(server: Server, arbiter: int) -> None:
    """Every worker is ready, the arbiter is the same one, and every request is answered."""
    status = server.wait_ready()
    assert status["arbiter"]["pid"] == arbiter
    assert server.statuses(10) == {200: 10}
