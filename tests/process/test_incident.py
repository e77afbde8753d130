"""The incident, by its figures: eight workers, two killed under load, their replacements' first loads fail."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.journal import least_ready
from tests.process.clients import Client
from tests.process.harness import Faults, Server, Since, wait_whole

CLIENTS = 6
PAUSE = 0.05  # seconds between two requests of a client: the processor is for the loads
FAILING = 4  # loads


@pytest.mark.timeout(300)
def test_the_incident(serve, faults, worker_class, subtests):
    server = serve("-k", worker_class, workers=8)
    wait_whole(server, 8)
    with subtests.test("under load"):
        assert_the_incident_costs_two_workers(server, faults, worker_class)
    if worker_class == "sync":
        faults.clear()
        wait_whole(server, 8)
        with subtests.test("every slot heals within the longest wait that was shown"):
            assert_every_slot_heals_in_time(server, faults)


def assert_the_incident_costs_two_workers(server: Server, faults: Faults, worker_class: str) -> None:
    clients = [Client(server, kept_alive=bool(number % 2), pause=PAUSE) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    server.wait("a load on it", lambda status: sum(slot["requests"] for slot in status["slots"]) > 100)

    killed = server.pids()[:2]
    faults.set("ready", "memory", FAILING)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    server.wait_event("load-failed", count=FAILING)
    server.wait_ready()
    for client in clients:
        client.over.set()
    for client in clients:
        client.join(60)

    loaded = {event["pid"] for event in server.events("ready")}
    answered = [answer for client in clients for answer in client.answered]
    assert {status for _, status in answered} == {200}
    assert {pid for pid, _ in answered} <= loaded, "no response from an unloaded worker"
    fresh = [before for client in clients if not client.kept_alive for before in client.failed]
    kept = [before for client in clients if client.kept_alive for before in client.failed]
    # what the killed workers had in hand: one each in a class that does one thing at a time, else one of each client
    most = len(killed) if worker_class == "sync" else CLIENTS
    assert len(fresh) + kept.count(None) <= most
    assert {before for before in kept if before is not None} <= set(killed)
    assert least_ready(server.events()) >= 6
    failures = server.events("load-failed")
    assert len({event["pid"] for event in failures}) == FAILING
    assert all(event["type"] == "MemoryError" for event in failures)


def assert_every_slot_heals_in_time(server: Server, faults: Faults) -> None:
    """8 of 8 within the longest back-off, plus the loads of the missing slots; by the journal's own times."""
    since = Since(server)
    faults.set("ready", "memory")
    for pid in server.pids()[:2]:
        os.kill(pid, signal.SIGKILL)
    since.wait("load-failed", count=4)
    faults.clear()
    cleared = time.time()
    server.wait_ready()
    longest = max(event["seconds"] for event in since.events("back-off"))
    last = since.events("ready")[-2:]
    loads = sum(event["load_seconds"] for event in last)
    assert last[-1]["at"] - cleared <= longest + loads + 10.0, "some seconds of grace for a busy machine"
