"""The requests in hand, as the register shows them, on every worker class."""

from __future__ import annotations

import json
import threading
from http.client import HTTPException

import pytest

from django_workerguard.scoreboard.in_hand import requests_of_servers
from tests.process.test_cli import workerguard

SECRET = "the-secret-in-the-query"


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
            self.statuses.append(self.server.get(path).status)
        except OSError:
            self.statuses.append(None)

    def join(self) -> list[int | None]:
        for thread in self.threads:
            thread.join(30)
        return self.statuses


@pytest.fixture
def clients():
    return Clients


def test_requests_in_hand_are_listed_with_their_view_and_without_their_query(serve, clients, worker_class):
    server = serve("--", "-k", worker_class, "--threads", "2")
    server.wait_ready()
    asking = clients(server)
    asking.ask(f"/slow?seconds=3&token={SECRET}")
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


def test_probes_and_what_is_over_leave_no_entry(serve, worker_class):
    server = serve("--", "-k", worker_class)
    server.wait_ready()
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
    assert all(slot["in_flight"] == 0 for slot in server.status()["slots"])


def test_requests_that_are_lost_with_their_worker_are_written_down(serve, clients, worker_class, tmp_path):
    access_log = tmp_path / "access.log"
    server = serve("--", "-k", worker_class, "--threads", "4", "--access-logfile", str(access_log), workers=1)
    server.wait_ready()
    asking = clients(server)
    count = 1 if worker_class == "sync" else 3
    for number in range(count):
        asking.ask(f"/slow?seconds=30&number={number}&token={SECRET}")
    server.wait(
        "all in hand", lambda _: [one["view"] for one in in_hand(server)] == ["guinea_app.views.slow"] * count
    )
    gone = server.kill_worker()
    server.wait_event("exited")
    lost = server.events("request-lost")
    assert [(one["slot"], one["pid"], one["method"], one["path"], one["cause"]) for one in lost] == [
        (1, gone, "GET", "/slow", "sigkill")
    ] * count
    assert all(one["view"] == "guinea_app.views.slow" and one["age"] > 0 for one in lost)
    assert server.status()["tallies"]["requests_lost"]["sigkill"] == count
    assert f"lost with it: GET /slow after {lost[0]['age']:.1f} s" in server.log
    lines = access_log.read_text().splitlines()
    assert sum('"GET /slow -" 000' in line for line in lines) == count
    assert SECRET not in server.log + access_log.read_text()
    assert asking.join() == [None] * count
    server.wait_ready()
    assert in_hand(server) == []
