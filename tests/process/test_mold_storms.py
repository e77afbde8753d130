"""Two faults of the mold at once, while clients send requests: only requests in the hands of a killed worker are lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.process.clients import Client, load_on
from tests.process.limits import children
from tests.process.test_mold import mold_of, serve_mold


def assert_lost_at_most(clients: list[Client], kills: int) -> None:
    """A sync worker has one request in hand, and none on a connection that was answered before."""
    answers = [status for client in clients for _, status in client.answered]
    assert set(answers) == {200}
    assert sum(len(client.failed) for client in clients) <= kills


def is_whole(status: dict, workers: int, generation: int) -> bool:
    slots = status["slots"]
    return (
        status["ready"] == workers == len(slots)
        and {slot["generation"] for slot in slots} == {generation}
        and all(slot["pid"] and not slot["successor"] for slot in slots)
        and status["mold"]["state"] == "ready"
        and status["mold"]["generation"] == generation
    )


def assert_nothing_else(server, workers: int) -> None:
    """The arbiter's children are the workers, one mold and the stand-in."""
    server._poll("no other child", lambda: len(children(server.arbiter)) == workers + 2, 60)
    assert server.status()["arbiter"]["errors"] == 0
    assert server.statuses(10) == {200: 10}
    assert server.stop() == 0
    server._poll("nothing is left", lambda: not server._remaining_processes(), 20)


def test_a_mold_is_stopped_and_two_workers_are_killed_during_a_reload(serve, faults):
    server = serve_mold(serve, workers=4)
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
        server.wait("the new generation", lambda status: is_whole(status, 4, 2), 90)
    assert_lost_at_most(clients, 2)
    server._poll("the end of the old mold", lambda: not Path(f"/proc/{old}").exists(), 60)
    assert_nothing_else(server, 4)


def test_workers_of_both_arbiters_are_killed_while_both_have_a_mold(serve):
    server = serve_mold(serve)
    first = server.arbiter
    with load_on(server) as clients:
        server.signal(signal.SIGUSR2)
        second = server.wait(
            "the second arbiter",
            lambda status: status["arbiter"]["pid"] != first and is_whole(status, 2, 1),
            90,
        )["arbiter"]["pid"]
        for arbiter in (first, second):
            status = server.status(arbiter)
            mold = status["mold"]["pid"]
            gone = status["slots"][0]["pid"]
            os.kill(gone, signal.SIGKILL)

            def replaced(arbiter=arbiter, gone=gone) -> bool:
                now = server.status(arbiter)
                return is_whole(now, 2, 1) and now["slots"][0]["pid"] != gone

            server._poll("its successor", replaced, 60)
            status = server.status(arbiter)
            assert status["mold"]["pid"] == mold
            assert {slot["mold"] for slot in status["slots"]} == {mold}
            # the mold and the workers of each, the stand-in, and with the first the second arbiter
            assert len(children(arbiter)) == 4 + (arbiter == first)
        os.kill(first, signal.SIGTERM)
        assert server.wait_exit() == 0
    assert_lost_at_most(clients, 2)
    os.kill(second, signal.SIGTERM)
    server._poll("nothing is left", lambda: not server._remaining_processes(), 60)
