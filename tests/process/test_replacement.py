"""Workers are replaced under load, and no client notices: new connections, kept-alive ones, websockets."""

from __future__ import annotations

import http.client
import signal
import time
from collections import Counter
from contextlib import closing

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

from tests.journal import least_ready
from tests.process.clients import Load
from tests.process.harness import Server, Since, UnixConnection, wait_whole

ROUNDS = 3  # reloads under load
# gunicorn's asgi class and uvicorn's take uvloop where it is installed, as it is here
ASYNCIO = ("asgi", "asgi+asyncio", "uvicorn_worker.UvicornWorker", "uvicorn_worker.UvicornH11Worker")
ON_CONNECTIONS = ("gthread", "gevent", *ASYNCIO)  # those that keep one


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


# gunicorn.conf.py for each rule, and the number of workers that it replaces
RULES = {
    "max-requests": (
        "WORKERGUARD = {'MAX_REQUESTS': 40, 'MAX_REQUESTS_DELTA': 10, 'MIN_WORKER_LIFETIME': 0}",
        6,
    ),
    "max-worker-lifetime": ("WORKERGUARD = {'MAX_WORKER_LIFETIME': 1, 'MIN_WORKER_LIFETIME': 0}", 6),
}
GUNICORNS_OWN = "max_requests = 30\nmax_requests_jitter = 10\nWORKERGUARD = {'MIN_WORKER_LIFETIME': 0}", 4


@pytest.mark.timeout(400)
def test_replacing_under_load_costs_no_request_and_no_capacity(worker_class, serve, tmp_path, subtests):
    """The load goes on all the time, and a reload under load leads from one reason to the next."""
    conf = tmp_path / "gunicorn.conf.py"
    reasons = [(rule, rule, *how) for rule, how in RULES.items()]
    if worker_class == "sync":  # what becomes of gunicorn's own option is the arbiter's alone
        # not next to max-requests, which has the same rule
        reasons.append(("gunicorn's own max_requests", "max-requests", *GUNICORNS_OWN))
    conf.write_text(reasons[0][2])
    server = serve("-k", worker_class, "-c", str(conf))
    server.wait_ready()
    generation = 1
    with Load(server) as load:
        for name, rule, text, count in reasons:
            with subtests.test(name):
                part = Part(server, load)
                if name != reasons[0][0]:
                    generation += 1
                    conf.write_text(text)
                    reload_and_wait(server, generation)
                part.wait_recycled(rule, generation, count)
                part.assert_cost_nothing()
        with subtests.test("reloads"):
            part = Part(server, load)
            conf.write_text("")
            while generation <= ROUNDS:
                generation += 1
                reload_and_wait(server, generation)
            part.assert_cost_nothing()
    assert set(load.seen) == {"200"}, load.seen
    assert least_ready(server.events()) == 2


class Part:
    """What has come of a server and its load since the beginning of a part."""

    def __init__(self, server: Server, load: Load) -> None:
        self._server = server
        self._load = load
        self._since = Since(server)
        self._before = Counter(load.seen)

    def wait_recycled(self, rule: str, generation: int, count: int) -> None:
        """Wait until workers of a generation have left by a rule."""
        self._since.wait(
            "exited",
            lambda event: event["rule"].startswith(rule) and event["generation"] == generation,
            count,
        )

    def assert_cost_nothing(self) -> None:
        seen = Counter(self._load.seen) - self._before
        assert set(seen) == {"200"}, seen
        assert least_ready(self._server.events()) == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("worker_class", ON_CONNECTIONS)
def test_connections_during_a_replacement(serve, worker_class, subtests):
    # longer than the successor takes to load, on a slow machine too
    server = serve_one(serve, worker_class, "--", "--keep-alive", "30")
    wait_whole(server, 1)
    with subtests.test("an idle connection may bring more requests"):
        assert_an_idle_connection_may_bring_more_requests(server)
    wait_whole(server, 1)
    with subtests.test("an answer under way says whether its connection closes"):
        assert_an_answer_under_way_says_whether_its_connection_closes(server)
    wait_whole(server, 1)
    with subtests.test("a leaving worker that is busy accepts nothing"):
        assert_a_leaving_worker_that_is_busy_accepts_nothing(server)


def assert_an_idle_connection_may_bring_more_requests(server: Server) -> None:
    since = Since(server)
    with closing(UnixConnection(server.socket_path, 20)) as connection:
        assert not ask(connection).will_close
        server.signal(signal.SIGHUP)
        since.wait("retiring")
        while not ask(connection).will_close:
            time.sleep(0.02)  # uvicorn looks every tenth of a second


def assert_an_answer_under_way_says_whether_its_connection_closes(server: Server) -> None:
    since = Since(server)
    with closing(UnixConnection(server.socket_path, 20)) as connection:
        assert not ask(connection).will_close
        connection.request("GET", "/slow?seconds=2", headers={"Host": "localhost"})
        server.signal(signal.SIGHUP)
        since.wait("retiring")
        if not answer(connection).will_close:
            ask(connection)


def assert_a_leaving_worker_that_is_busy_accepts_nothing(server: Server) -> None:
    since = Since(server)
    before = server.slot(1)["pid"]
    with closing(UnixConnection(server.socket_path, 20)) as busy:
        busy.request("GET", "/slow?seconds=8", headers={"Host": "localhost"})
        server.signal(signal.SIGHUP)
        since.wait("retiring")

        def answered() -> set[str]:
            return {server.get("/").body for _ in range(50)}

        # gevent and asgi look once a second
        server._poll("the busy worker accepts nothing", lambda: f"pid {before}\n" not in answered(), 7)
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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("worker_class", ASYNCIO)
def test_websockets_during_a_replacement(serve, worker_class, subtests):
    # the mercy is longer than a worker takes that is waited for, on a slow machine too
    server = serve_one(
        serve, worker_class, "--app", "guinea_asgi:application", "--worker-reload-mercy", "15s"
    )
    wait_whole(server, 1)
    with subtests.test("mercy ends a websocket"):
        assert_mercy_ends_a_websocket(server)
    wait_whole(server, 1)
    with subtests.test("a websocket is waited for"):
        assert_a_websocket_is_waited_for(server)


def assert_mercy_ends_a_websocket(server: Server) -> None:
    since, logged = Since(server), len(server.log)
    before = server.slot(1)["pid"]
    with unix_connect(str(server.socket_path), "ws://localhost/", open_timeout=20) as client:
        client.send("one")
        assert client.recv(20) == "one"
        server.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed):
            client.recv(60)
    since.wait("exited", lambda event: event["pid"] == before)
    assert server.get("/").status == 200
    assert "lifespan ended" in server.log[logged:]


def assert_a_websocket_is_waited_for(server: Server) -> None:
    since = Since(server)
    before = server.slot(1)["pid"]
    with unix_connect(str(server.socket_path), "ws://localhost/", open_timeout=20) as client:
        client.send("one")
        assert client.recv(20) == "one"
        server.signal(signal.SIGHUP)
        since.wait("retiring")
        client.send("two")
        assert client.recv(20) == "two"
        assert not [event for event in since.events("exited") if event["pid"] == before]
    since.wait("exited", lambda event: event["pid"] == before and event["end"] != "killed by SIGKILL")
