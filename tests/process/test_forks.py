"""Only a worker itself speaks for the worker, and a signal to every process of the server costs none of them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from django_workerguard.config.handover import EARLY_SIGNALS
from tests.process.harness import Server

SIGNALS = ("TERM", "HUP", "USR1", "QUIT", "ABRT")


def test_a_process_that_a_view_forks_dies_of_a_signal_and_is_not_the_worker(worker_class, serve):
    server = serve("-k", worker_class, "-w", "1", workers=None)
    server.wait_ready()
    before = server.pids()
    for number in SIGNALS:
        body = server.get(f"/fork?signal={number}").body
        assert body == f"none. -{getattr(signal, f'SIG{number}').value}\n", "in it there is no current worker"
        assert server.statuses(4) == {200: 4}
        assert server.pids() == before
    status = server.wait("nothing in hand", lambda status: status["slots"][0]["in_flight"] == 0)
    assert status["slots"][0]["state"] == "ready"
    assert status["slots"][0]["load_steps"], "the fork wrote nothing into the board"
    assert [event["event"] for event in server.events()] == ["started", "spawned", "ready"]


def everybody(server: Server) -> list[int]:
    children = Path(f"/proc/{server.arbiter}/task/{server.arbiter}/children").read_text()
    return [server.arbiter, *map(int, children.split())]


def test_a_hangup_of_every_process_costs_no_worker_and_no_request(worker_class, serve):
    # one worker of gthread may accept both connections: with one thread the second would only wait its turn
    threads_of_its_own = ["--threads", "2"] if worker_class == "gthread" else []
    server = serve("-k", worker_class, *threads_of_its_own)
    server.wait_ready()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.get("/slow?seconds=6").status))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    server.wait("both in hand", lambda status: sum(slot["in_flight"] for slot in status["slots"]) == 2)
    for pid in everybody(server):
        os.kill(pid, signal.SIGHUP)
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    server.wait_event("reloaded", lambda event: event["generation"] == 2)
    reasons = {event["reason"] for event in server.events("exited")}
    assert reasons == {"reload: generation 1 of 2"}


def test_a_hangup_in_the_middle_of_a_load(serve, faults):
    server = serve()
    server.wait_ready()
    faults.set("ready", "hang", 1)
    server.kill_worker(1)
    server.wait("the fault", lambda _: faults.used_up("ready"))
    loading = server.wait_event("spawned", count=3)["pid"]
    os.kill(loading, signal.SIGHUP)
    os.kill(loading, signal.SIGUSR1)
    assert server.statuses(4) == {200: 4}
    assert server.slot(1)["pid"] == loading
    assert not server.events("load-failed")


@pytest.mark.parametrize("kind", ["GUINEA_SCHEDULER", "GUINEA_PROCESS"])
def test_a_thread_or_process_that_runs_on_is_named_and_not_waited_for(serve, kind):
    server = serve("--worker-reload-mercy", "60s", environ={kind: "beat-of-the-shop"})
    server.wait_ready()
    (slot, _) = server.status()["slots"]
    server.signal(signal.SIGHUP)
    exited = server.wait_event("exited", lambda event: event["pid"] == slot["pid"])
    assert exited["threads"] == "'beat-of-the-shop'"
    assert exited["end"] == "exit code 0"
    assert not server.events("aborted"), "the mercy was not used up"


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_a_signal_for_the_arbiter_ends_and_stops_no_other_process(worker_class, load, serve):
    server = serve("--load", load, "--monitor-bind", "127.0.0.1:0", "--", "-k", worker_class)
    server.wait_ready()
    _, *children = everybody(server)
    assert len(children) == 4 + (load == "mold"), "workers, stand-in, monitor and mold"
    for number in EARLY_SIGNALS:
        for pid in children:
            os.kill(pid, number)
        assert server.statuses(6) == {200: 6}
    assert everybody(server)[1:] == children
    states = {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children}
    assert "T" not in states
    assert server.events("exited") == []
