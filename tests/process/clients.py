"""Clients that put a load on a server and keep what they were answered."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from django_workerguard.scoreboard.in_hand import requests_of_servers
from tests.process.harness import Reply, Server, UnixConnection

PAUSE = 0.005  # seconds between two requests of a client: most of the processor is for the servers
LONGER_PAUSE = 0.05  # seconds, where no figure depends on the number of requests
CLIENTS = 4  # of a load


class Client(threading.Thread):
    """Requests one after another; ``failed`` says for each that failed who had answered on that connection before."""

    def __init__(
        self, server: Server, *, kept_alive: bool = False, path: str = "/", pause: float = PAUSE
    ) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.kept_alive = kept_alive
        self.path = path
        self.pause = pause
        self.answered: list[tuple[int, int]] = []  # pid, status
        self.failed: list[int | None] = []
        self.over = threading.Event()

    def run(self) -> None:
        connection, before = None, None
        while not self.over.wait(self.pause):
            if connection is None:
                connection, before = UnixConnection(self.server.socket_path, 20), None
            try:
                headers = {"Host": "localhost", **({} if self.kept_alive else {"Connection": "close"})}
                connection.request("GET", self.path, headers=headers)
                response = connection.getresponse()
                response.read()
                before = int(response.headers["x-worker-pid"])
                self.answered.append((before, response.status))
                if response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException):
                self.failed.append(before)
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@contextlib.contextmanager
def load_on(server: Server, count: int = 3, path: str = "/", pause: float = PAUSE) -> Iterator[list[Client]]:
    """Have clients ask, each request on a connection of its own, while the block runs."""
    clients = [Client(server, path=path, pause=pause) for _ in range(count)]
    for client in clients:
        client.start()
    server.wait("a load on it", lambda status: sum(slot["requests"] for slot in status["slots"]) > 20)
    try:
        yield clients
    finally:
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(60)


class Load:
    """Clients that make one request after the other over new connections, and count what becomes of them."""

    def __init__(self, server: Server, pause: float = LONGER_PAUSE) -> None:
        self.seen: Counter[str] = Counter()
        self._server = server
        self._pause = pause
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        while not self._over.wait(self._pause):
            try:
                self.seen[str(self._server.get("/").status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__] += 1


def in_hand(server) -> list[dict]:
    with server.board() as board:
        return requests_of_servers([board])["requests"]


class Clients:
    """Requests in threads of their own."""

    def __init__(self, server) -> None:
        self.server = server
        self.threads: list[threading.Thread] = []
        self.statuses: list[int | None] = []

    def ask(self, path: str) -> None:
        thread = threading.Thread(target=self._get, args=(path,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _get(self, path: str) -> None:
        try:
            self.statuses.append(self.server.get(path, timeout=60).status)
        except (OSError, HTTPException):
            self.statuses.append(None)

    def join(self) -> list[int | None]:
        for thread in self.threads:
            thread.join(30)
        return self.statuses


class OneRequest(threading.Thread):
    """One request in the background."""

    def __init__(self, server: Server, path: str) -> None:
        super().__init__(daemon=True)
        self._server, self._path = server, path
        self.reply: Reply | None = None
        self.start()

    def run(self) -> None:
        try:
            self.reply = self._server.get(self._path, timeout=60)
        except OSError:
            self.reply = None


def ended(slot: dict[str, Any]) -> int:
    """Return how many requests of a slot have ended; -1 while one is in hand, which may have been counted already."""
    requests: int = slot["requests"]
    return -1 if slot["in_flight"] else requests


def in_flight(status: dict) -> bool:
    return any(slot["in_flight"] for slot in status["slots"])
