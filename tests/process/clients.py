"""Clients that put a load on a server and keep what they were answered."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator

from tests.process.harness import Server, UnixConnection

PAUSE = 0.005  # seconds between two requests of a client: most of the processor is for the servers


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
