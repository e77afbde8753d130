"""The server under test of our own process tests: the package's, on the projects of this directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from django_workerguard.testing import UnixConnection, WaitError
from django_workerguard.testing import server as testing

__all__ = [
    "LONG_ENOUGH",
    "ROOT",
    "TIMEOUT",
    "WORKER_CLASSES",
    "Reply",
    "Server",
    "UnixConnection",
    "WaitError",
]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = testing.TIMEOUT
LONG_ENOUGH = "8s"  # for an honest load on a busy machine; a hang outlasts it

WORKER_CLASSES = {
    "sync": "sync",
    "gthread": "gthread",
    "gevent": "gevent",
    "asgi": "asgi",
    "uvicorn": "uvicorn_worker.UvicornWorker",
}


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
