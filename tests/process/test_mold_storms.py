"""Two faults of the mold at once, while clients send requests: only requests in the hands of a killed worker are lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.process.clients import Client, load_on
from tests.process.harness import Faults, Server
from tests.process.limits import children
from tests.process.molds import is_whole, mold_of, serve_mold, wait_whole

WORKERS = 4


def assert_lost_at_most(clients: list[Client], kills: int) -> None:
    """A sync worker has one request in hand, and none on a connection that was answered before."""
    answers = [status for client in clients for _, status in client.answered]
    assert set(answers) == {200}
    assert sum(len(client.failed) for client in clients) <= kills


@pytest.mark.timeout(300)
def test_two_faults_at_once_under_load(serve, faults, subtests):
    server = serve_mold(serve, workers=WORKERS)
    with subtests.test("a mold is stopped and two workers are killed during a reload"):
        assert_reload_survives(server, faults)
    faults.clear()
    wait_whole(server, WORKERS, 2)
    with subtests.test("workers of both arbiters are killed while both have a mold"):
        assert_both_arbiters_survive(server)


def assert_reload_survives(server: Server, faults: Faults) -> None:
    old = mold_of(server)["pid"]
    with load_on(server) as clients:
        faults.set("urlconf", "wait")
        server.signal(signal.SIGHUP)
        server.wait_event("mold-spawned", count=2)
        os.kill(old, signal.SIGSTOP)
        for pid in server.pids()[:2]:
            os.kill(pid, signal.SIGKILL)
        server.wait_event("exited", count=2)
        faults.clear()
        server.wait("the new generation", lambda status: is_whole(status, WORKERS, 2), 90)
    assert_lost_at_most(clients, 2)
    server._poll("the end of the old mold", lambda: not Path(f"/proc/{old}").exists(), 60)
    wait_whole(server, WORKERS, 2)
    assert server.status()["arbiter"]["errors"] == 0
    assert server.statuses(10) == {200: 10}


def assert_both_arbiters_survive(server: Server) -> None:
    first, old = server.arbiter, mold_of(server)["pid"]
    with load_on(server) as clients:
        server.signal(signal.SIGUSR2)
        status = server.wait(
            "the second arbiter",
            lambda status: status["arbiter"]["pid"] != first and is_whole(status, WORKERS, 1),
            90,
        )
        second = status["arbiter"]["pid"]
        assert status["mold"]["pid"] != old
        assert server.status(first)["mold"]["pid"] == old
        for arbiter, generation in ((first, 2), (second, 1)):
            status = server.status(arbiter)
            mold = status["mold"]["pid"]
            gone = status["slots"][0]["pid"]
            os.kill(gone, signal.SIGKILL)

            def replaced(arbiter=arbiter, generation=generation, gone=gone) -> bool:
                now = server.status(arbiter)
                return is_whole(now, WORKERS, generation) and now["slots"][0]["pid"] != gone

            server._poll("its successor", replaced, 60)
            status = server.status(arbiter)
            assert status["mold"]["pid"] == mold
            assert {slot["mold"] for slot in status["slots"]} == {mold}
            # the mold and the workers of each; and of the first its stand-in, which is that of both, and the second arbiter
            assert len(children(arbiter)) == WORKERS + 1 + 2 * (arbiter == first)
        os.kill(first, signal.SIGTERM)
        assert server.wait_exit() == 0
    assert_lost_at_most(clients, 2)
    assert server.statuses(6) == {200: 6}
    os.kill(second, signal.SIGTERM)
    server._poll("nothing is left", lambda: not server._remaining_processes(), 60)
