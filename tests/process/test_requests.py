"""The requests in hand, as the register shows them, on every worker class."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import unix_connect

from django_workerguard.scoreboard.control_client import ask, ask_for_file
from django_workerguard.scoreboard.layout import Seat, SeatKind
from django_workerguard.scoreboard.stack_format import END
from tests.process.clients import Clients, in_hand
from tests.process.commands import workerguard
from tests.process.harness import Server, Since, UnixConnection, threads, wait_whole

SECRET = "the-secret-in-the-query"


# what the section of the request shows: the kind of what serves it, and a line of its frames
HANGING = {
    ("sync", "/hang?how=lock"): ("thread", "in _locked_twice"),
    ("sync", "/hang?how=gil"): ("thread", "in hang"),
    ("sync", "/hang?how=computing"): ("thread", "in hang"),
    ("gthread", "/hang?how=lock"): ("Thread", "in _locked_twice"),
    ("gthread", "/hang?how=gil"): ("Thread", "in hang"),
    ("gevent", "/slow?seconds=30"): ("Greenlet", "in slow"),
    ("asgi", "/wait"): ("Task", "in _waits_inside"),
    ("asgi", "/hang?how=lock"): ("Thread", "in _locked_twice"),
    ("asgi", "/pooled"): ("Thread", "in _locked_twice"),
    ("uvicorn_worker.UvicornWorker", "/wait"): ("Task", "in _waits_inside"),
    ("uvicorn_worker.UvicornWorker", "/hang?how=lock"): ("Thread", "in _locked_twice"),
}


ENDED_BY_SYS_EXIT = ("gthread", "asgi")  # sync and gevent go on


@pytest.mark.timeout(400)
def test_the_register_and_the_stacks(serve, worker_class, tmp_path, subtests):
    access_log = tmp_path / "access.log"
    server = serve(
        # so that no part has its worker replaced by the MemoryError of a part before
        *("--reload-on-memory-error", "off", "--", "-k", worker_class, *threads(worker_class)),
        *("--timeout", "60", "--access-logfile", str(access_log)),
        workers=1,
    )
    wait_whole(server, 1)

    with subtests.test("requests that are lost with their worker are written down"):
        assert_lost_requests_are_written_down(server, access_log, 1 if worker_class == "sync" else 3)
    wait_whole(server, 1)
    with subtests.test("the stacks of an idle worker"):
        assert_stacks_of_an_idle_worker(server)
    for (on_class, path), (kind, frame) in HANGING.items():
        if on_class == worker_class:
            with subtests.test(f"the stacks show where {path} is, and the worker goes on"):
                assert_stacks_of_a_hang(server, path, kind, frame)
            replace_worker(server)
    if worker_class in ("gthread", "asgi"):
        with subtests.test("a worker with busy threads is not ended by questions for its stacks"):
            assert_busy_threads_survive_questions(server)
    if worker_class == "sync":
        with subtests.test("a stopped worker is not ended by a question for its stacks"):
            assert_a_stopped_worker_survives_a_question(server)
        with subtests.test("a stand-in is not ended by a question for its stacks"):
            assert_the_stand_in_survives_a_question(server)

    server.signal(signal.SIGTTIN)
    wait_whole(server, 2)
    with subtests.test("requests in hand are listed with their view and without their query"):
        assert_listed_with_their_view_and_without_their_query(server)
    with subtests.test("probes and requests that are over leave no entry"):
        assert_probes_and_what_is_over_leave_no_entry(server)


def replace_worker(server: Server) -> None:
    """Kill the only worker, with the request that it serves, and wait for the next one."""
    since = Since(server)
    server.kill_worker()
    since.wait("ready")
    wait_whole(server, 1)
    server.wait("an empty register", lambda _: in_hand(server) == [])


def assert_lost_requests_are_written_down(server: Server, access_log: Path, count: int) -> None:
    since, asking = Since(server), Clients(server)
    for number in range(count):
        asking.ask(f"/slow?seconds=30&number={number}&token={SECRET}")
    server.wait(
        "all in hand", lambda _: [one["view"] for one in in_hand(server)] == ["guinea_app.views.slow"] * count
    )
    gone = server.kill_worker()
    since.wait("exited")
    lost = since.events("request-lost")
    assert [(one["slot"], one["pid"], one["method"], one["path"], one["cause"]) for one in lost] == [
        (1, gone, "GET", "/slow", "sigkill")
    ] * count
    assert all(one["view"] == "guinea_app.views.slow" and one["age"] > 0 for one in lost)
    assert server.status()["tallies"]["requests_lost"]["sigkill"] == count
    (seconds,) = re.findall(r"lost with it: GET /slow after (\d+\.\d) s", server.log)
    assert abs(float(seconds) - lost[0]["age"]) < 0.1
    server.wait("the access log", lambda _: access_log.read_text().count('"GET /slow -" 000') == count)
    assert SECRET not in server.log + access_log.read_text()
    assert asking.join() == [None] * count
    server.wait("the seat of the dead worker is empty", lambda _: in_hand(server) == [])
    since.wait("ready")


def stacks_of(server: Server, slot: int, *more: str) -> str:
    told = workerguard("stacks", str(slot), *more, "--name", "guinea", run_dir=server.run_dir)
    assert told.returncode == 0, told.stderr
    return told.stdout


def assert_stacks_of_an_idle_worker(server: Server) -> None:
    since = Since(server)
    assert "Current thread" in stacks_of(server, 1)
    assert "without a request: --all" not in stacks_of(server, 1, "--all")
    assert server.statuses(3) == {200: 3}
    assert since.events("asked")[0]["do"] == "stacks"
    told = workerguard("stacks", "7", "--name", "guinea", run_dir=server.run_dir)
    assert (told.returncode, told.stderr) == (2, "Error: slot 7 has no worker: see workerguard status.\n")


def assert_stacks_of_a_hang(server: Server, path: str, kind: str, frame: str) -> None:
    since = Since(server)
    pid = server.slot(1)["pid"]
    Clients(server).ask(path)
    server.wait("in hand", lambda _: in_hand(server) and in_hand(server)[0]["view"])
    for _ in range(2):
        found = stacks_of(server, 1)
        sections = [
            part for part in found.split("\n\n") if f" serves GET {path.partition('?')[0]} for " in part
        ]
        assert any(kind in part.splitlines()[0] and frame in part for part in sections), found
    assert server.slot(1)["pid"] == pid
    assert not since.events("exited")


def wait_for_stacks(answer: dict, fd: int) -> None:
    with os.fdopen(fd, "rb") as file:
        deadline = time.monotonic() + 20
        while END.encode() not in (dump := os.pread(file.fileno(), 1 << 20, answer["offset"])):
            assert time.monotonic() < deadline, dump
            time.sleep(0.002)


def assert_busy_threads_survive_questions(server: Server) -> None:
    since = Since(server)
    pid = server.slot(1)["pid"]
    with server.board() as board:
        socket_path = board.path.with_suffix(".sock")
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, HTTPException):
                server.get("/page")

    busy = [threading.Thread(target=load) for _ in range(3)]
    for client in busy:
        client.start()
    try:
        for _ in range(150):
            wait_for_stacks(*ask_for_file(socket_path, "stacks", pid=pid))
    finally:
        over.set()
        for client in busy:
            client.join()
    assert server.slot(1)["pid"] == pid
    assert not since.events("exited")


def assert_a_stopped_worker_survives_a_question(server: Server) -> None:
    pid = server.slot(1)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        told = workerguard("stacks", "1", "--name", "guinea", run_dir=server.run_dir)
        assert told.returncode == 75
        assert f"pid {pid} has written nothing within 3 s" in told.stderr
        assert "state T" in told.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server.statuses(3) == {200: 3}
    assert server.slot(1)["pid"] == pid


def assert_the_stand_in_survives_a_question(server: Server) -> None:
    since = Since(server)
    with server.board() as board:
        bases = [board.layout.seat(seat) for seat in range(board.layout.seats)]
        (stand_in,) = [
            board.words[base + Seat.PID]
            for base in bases
            if board.words[base + Seat.KIND] == SeatKind.STAND_IN
        ]
        answer = ask(board.path.with_suffix(".sock"), "stacks", pid=stand_in)
    assert not answer["accepted"]
    assert "it is the stand-in" in answer["reason"]
    assert server.statuses(3) == {200: 3}
    assert not since.events("stand-in-exited")


def assert_listed_with_their_view_and_without_their_query(server: Server) -> None:
    asking = Clients(server)
    asking.ask(f"/slow?seconds=15&token={SECRET}")  # the two commands take some seconds on a busy machine
    server.wait(
        "the view is known", lambda _: [one["view"] for one in in_hand(server)] == ["guinea_app.views.slow"]
    )
    server.wait("some age", lambda _: in_hand(server)[0]["age"] > 0.3)
    (request,) = in_hand(server)
    assert (request["method"], request["path"]) == ("GET", "/slow")
    assert request["pid"] == server.slot(request["slot"])["pid"]
    shown = workerguard("requests", "--name", "guinea", run_dir=server.run_dir).stdout
    assert shown.splitlines()[0].split() == ["SLOT", "PID", "AGE", "METHOD", "PATH", "VIEW"]
    assert "GET     /slow  guinea_app.views.slow" in shown
    document = json.loads(
        workerguard("requests", "--json", "--name", "guinea", run_dir=server.run_dir).stdout
    )
    assert document["requests"][0]["task"] == request["task"]
    with server.board() as board:
        assert SECRET.encode() not in bytes(board.bytes)
    assert asking.join() == [200]
    server.wait("an empty register", lambda _: in_hand(server) == [])
    assert (
        "No request is being served."
        in workerguard("requests", "--name", "guinea", run_dir=server.run_dir).stdout
    )


def assert_probes_and_what_is_over_leave_no_entry(server: Server) -> None:
    for path in (
        "/",
        "/broken",
        "/health/live/",
        "/missing",
        "/stream?lines=1",
        "/starved-stream",
        "/starve",
    ):
        for _ in range(3):
            try:
                server.get(path)
            except (OSError, HTTPException):
                assert path == "/starved-stream"
    server.wait("an empty register", lambda _: in_hand(server) == [])
    server.wait("none in flight", lambda status: not any(slot["in_flight"] for slot in status["slots"]))


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", "asgi"])
def test_sys_exit_in_a_view_leaves_no_entry_on_a_worker_that_goes_on(serve, worker_class):
    server = serve(
        *("--request-timeout", "10", "--outlier", "off"),
        *("--", "-k", worker_class, *threads(worker_class), "--timeout", "60"),
        workers=1,
    )
    wait_whole(server, 1)
    since, pid = Since(server), server.slot(1)["pid"]
    asking = Clients(server)
    asking.ask("/leave")
    assert asking.join() in ([None], [500])
    if worker_class in ENDED_BY_SYS_EXIT:
        since.wait("exited")
        (lost,) = since.events("request-lost")
        assert (lost["pid"], lost["path"]) == (pid, "/leave")
        return
    server.wait("an empty register", lambda _: in_hand(server) == [])
    server.wait("counted", lambda status: status["slots"][0]["errors_5xx"] == 1)
    assert server.slot(1)["in_flight"] == 0
    assert server.statuses(3) == {200: 3}
    assert server.slot(1)["pid"] == pid
    assert not since.events("request-lost")


@pytest.mark.parametrize(
    ("worker_class", "end"),
    [
        ("asgi", signal.SIGHUP),
        ("asgi", signal.SIGINT),
        ("uvicorn_worker.UvicornWorker", signal.SIGINT),
    ],
)
def test_requests_that_the_end_of_an_event_loop_cuts_off_are_written_down(serve, worker_class, end):
    server = serve(
        *("--app", "guinea_asgi:application", "--worker-reload-mercy", "3"),
        *("--", "-k", worker_class, "--timeout", "60"),
        workers=1,
    )
    wait_whole(server, 1)
    since, asking = Since(server), Clients(server)
    asking.ask("/wait?seconds=60")
    server.wait("in hand", lambda _: in_hand(server) and in_hand(server)[0]["view"])
    assert server.get("/answered-and-goes-on").status == 200
    url = "ws://localhost/"
    with unix_connect(str(server.socket_path), url, open_timeout=20, close_timeout=1) as websocket:
        websocket.send("one")
        assert websocket.recv(20) == "one"
        assert len(in_hand(server)) == 3
        server.signal(end)
        if end == signal.SIGHUP:
            since.wait("exited")
            lost = {event["path"]: event for event in since.events("request-lost")}
            # websockets end with their worker, and are named only if it is aborted, as it may be on a busy machine
            assert lost.keys() - ({"/"} if since.events("aborted") else set()) == {"/wait"}
            assert lost["/wait"]["view"] == "guinea_app.views.wait"
            assert lost["/wait"]["cause"] in ("asked", "worker-reload-mercy")
        else:
            server.wait_exit()
    assert re.search(r"lost with it: .*GET /wait after [\d.]+ s", server.log)
    assert "GET /answered-and-goes-on after" not in server.log
    assert asking.join() in ([None], [500])


REQUESTS = int(os.environ.get("WORKERGUARD_REGISTER_REQUESTS", "1000"))
PATHS = ("/", "/", "/page", "/broken", "/missing", "/stream?lines=1", "/starved-stream", "/starve", "/read")


# options under which each fault below is only a fault of its request
FAULTY = ("--min-worker-lifetime", "0", "--outlier", "off", "--reload-on-memory-error", "off")


class RestlessClient(threading.Thread):
    """Makes requests over connections that it keeps or not, opens websockets, and sometimes goes in the middle."""

    def __init__(self, server, numbers: Iterator[int], *, websockets: bool) -> None:
        super().__init__()
        self._server = server
        self._numbers = numbers
        self._websockets = websockets
        self._connection = UnixConnection(server.socket_path, 30)
        self.kept = self.opened = 0  # requests over a connection that had one before; websockets

    def run(self) -> None:
        choose = random.Random(self.ident)
        while next(self._numbers) < REQUESTS:
            if self._websockets and choose.random() < 0.05:
                with contextlib.suppress(OSError, WebSocketException):
                    self._talk(choose)
            else:
                try:
                    self._ask(choose)
                except (OSError, HTTPException):
                    self._connection.close()
        self._connection.close()

    def _ask(self, choose: random.Random) -> None:
        kept = self._connection.sock is not None
        self._connection.request("GET", choose.choice(PATHS), headers={"Host": "localhost"})
        if choose.random() < 0.1:
            self._connection.close()  # without waiting for the answer
            return
        self._connection.getresponse().read()
        self.kept += kept
        if choose.random() < 0.5:
            self._connection.close()

    def _talk(self, choose: random.Random) -> None:
        path = choose.choice(("/", "/", "/refused"))
        socket_path = str(self._server.socket_path)
        with unix_connect(socket_path, f"ws://localhost{path}", open_timeout=20, close_timeout=5) as client:
            client.send("one")
            assert client.recv(20) == "one"
            self.opened += 1
            if choose.random() < 0.5:
                client.socket.shutdown(socket.SHUT_RDWR)  # without the closing handshake


@pytest.mark.timeout(900)
@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "asgi"])
def test_the_register_is_empty_after_errors_streams_aborts_recyclings_and_kills(serve, worker_class):
    websockets = worker_class == "asgi"
    application = ("--app", "guinea_asgi:application") if websockets else ()
    server = serve(
        *FAULTY, "--max-requests", "300", *application, "--", "-k", worker_class, *threads(worker_class)
    )
    server.wait_ready()
    numbers = itertools.count()
    clients = [RestlessClient(server, numbers, websockets=websockets) for _ in range(6)]
    for client in clients:
        client.start()
    for _ in range(3):
        time.sleep(0.7)
        with contextlib.suppress(ProcessLookupError):
            server.kill_worker()
    for client in clients:
        client.join()
    assert sum(client.kept for client in clients)
    assert bool(sum(client.opened for client in clients)) == websockets
    server.wait_ready()
    server.wait("an empty register", lambda _: in_hand(server) == [])
    server.wait(
        "none in flight", lambda status: all(slot["in_flight"] == 0 for slot in status["slots"]), timeout=20
    )
    counted = sum(slot["requests"] for slot in server.status()["slots"])
    histograms = [one for slot in server.status()["slots"] for one in slot["durations"].values()]
    timed = sum(sum(one["buckets"]) for one in histograms)
    assert (counted > timed) if websockets else (counted == timed), "websockets are counted and not timed"
