"""Workers are replaced under load, and no client notices: new connections, kept-alive ones, websockets."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections import Counter
from contextlib import closing

import pytest
from websockets.sync.client import unix_connect

from tests.process.clients import PAUSE
from tests.process.harness import Server, UnixConnection

CLIENTS = 4
ROUNDS = 3
# gunicorn's asgi class and uvicorn's take uvloop where it is installed, as it is here
ASYNCIO = ("asgi", "asgi+asyncio", "uvicorn_worker.UvicornWorker", "uvicorn_worker.UvicornH11Worker")
ON_CONNECTIONS = ("gthread", "gevent", *ASYNCIO)  # those that keep one


class Load:
    """Clients that make one request after the other over new connections, and count what becomes of them."""

    def __init__(self, server: Server) -> None:
        self.seen: Counter[str] = Counter()
        self._server = server
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
        while not self._over.wait(PAUSE):
            try:
                self.seen[str(self._server.get("/").status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__] += 1


def serve_one(serve, worker_class: str, *arguments: str) -> Server:
    worker_class, _, loop = worker_class.partition("+")
    environ = {"GUNICORN_CMD_ARGS": f"--asgi-loop {loop}"} if loop else {}
    return serve("-k", worker_class, *arguments, workers=1, environ=environ)


def reload_and_wait(server: Server, generation: int) -> None:
    server.signal(signal.SIGHUP)
    server.wait(
        "the new generation",
        lambda status: (
            all(slot["generation"] == generation for slot in status["slots"]) and status["ready"] == 2
        ),
    )


def test_replacing_all_under_load_fails_no_request(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()
    with Load(server) as load:
        for generation in range(2, 2 + ROUNDS):
            reload_and_wait(server, generation)
    assert set(load.seen) == {"200"}, load.seen


@pytest.mark.parametrize("worker_class", ON_CONNECTIONS)
def test_an_idle_connection_may_bring_more_requests(serve, worker_class):
    # longer than the successor takes to load, on a slow machine too
    server = serve_one(serve, worker_class, "--", "--keep-alive", "30")
    server.wait_ready()
    with closing(UnixConnection(server.socket_path, 20)) as connection:
        assert not ask(connection).will_close
        server.signal(signal.SIGHUP)
        server.wait_event("retiring")
        while not ask(connection).will_close:
            time.sleep(0.02)  # uvicorn looks every tenth of a second


@pytest.mark.parametrize("worker_class", ON_CONNECTIONS)
def test_an_answer_under_way_says_whether_its_connection_closes(serve, worker_class):
    server = serve_one(serve, worker_class, "--", "--keep-alive", "30")
    server.wait_ready()
    with closing(UnixConnection(server.socket_path, 20)) as connection:
        assert not ask(connection).will_close
        connection.request("GET", "/slow?seconds=2", headers={"Host": "localhost"})
        server.signal(signal.SIGHUP)
        server.wait_event("retiring")
        if not answer(connection).will_close:
            ask(connection)


@pytest.mark.parametrize("worker_class", ON_CONNECTIONS)
def test_a_leaving_worker_that_is_busy_accepts_nothing(serve, worker_class):
    server = serve_one(serve, worker_class)
    before = server.wait_ready()["slots"][0]["pid"]
    with closing(UnixConnection(server.socket_path, 20)) as busy:
        busy.request("GET", "/slow?seconds=6", headers={"Host": "localhost"})
        server.signal(signal.SIGHUP)
        server.wait_event("retiring")

        def answered() -> set[str]:
            return {server.get("/").body for _ in range(50)}

        # gevent and asgi look once a second
        server._poll("the busy worker accepts nothing", lambda: f"pid {before}\n" not in answered(), 5)
        assert len(answered() - {f"pid {before}\n"}) == len(answered()) == 1
        assert answer(busy)


def ask(connection: UnixConnection) -> http.client.HTTPResponse:
    connection.request("GET", "/", headers={"Host": "localhost"})
    return answer(connection)


def answer(connection: UnixConnection) -> http.client.HTTPResponse:
    response = connection.getresponse()
    response.read()
    assert response.status == 200
    return response


@pytest.mark.parametrize("worker_class", ASYNCIO)
def test_a_websocket_is_waited_for(serve, worker_class):
    server = serve_one(serve, worker_class, "--app", "guinea_asgi:application")
    before = server.wait_ready()["slots"][0]["pid"]
    with unix_connect(str(server.socket_path), "ws://localhost/", open_timeout=20) as client:
        client.send("one")
        assert client.recv(20) == "one"
        reload_and_wait_for_one(server)
        client.send("two")
        assert client.recv(20) == "two"
        assert not [event for event in server.events("exited") if event["pid"] == before]
    server.wait_event("exited", lambda event: event["pid"] == before and event["end"] != "killed by SIGKILL")


def reload_and_wait_for_one(server: Server) -> None:
    server.signal(signal.SIGHUP)
    server.wait_event("retiring")


@pytest.mark.parametrize("worker_class", ASYNCIO)
def test_mercy_ends_a_websocket(serve, worker_class):
    server = serve_one(serve, worker_class, "--app", "guinea_asgi:application", "--worker-reload-mercy", "2s")
    before = server.wait_ready()["slots"][0]["pid"]
    with unix_connect(str(server.socket_path), "ws://localhost/", open_timeout=20) as client:
        client.send("one")
        assert client.recv(20) == "one"
        server.signal(signal.SIGHUP)
        server.wait_event("exited", lambda event: event["pid"] == before)
    assert server.get("/").status == 200
    assert "lifespan ended" in server.log
