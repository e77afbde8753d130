"""The incident, by its figures: eight workers, two killed under load, their replacements' first loads fail."""

from __future__ import annotations

import os
import signal

from tests.journal import least_ready
from tests.process.clients import Client

CLIENTS = 6
FAILING = 4  # loads


def test_the_incident(serve, faults, worker_class):
    server = serve("-k", worker_class, "-w", "8")
    server.wait_ready()
    clients = [Client(server, kept_alive=bool(number % 2)) for number in range(CLIENTS)]
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


def test_every_slot_heals_within_the_longest_wait_that_was_shown(serve, faults):
    """8 of 8 within the largest `next_try_in`, plus the loads of the missing slots; by the journal's own times."""
    server = serve("-w", "8")
    server.wait_ready()
    faults.set("ready", "memory")
    for pid in server.pids()[:2]:
        os.kill(pid, signal.SIGKILL)
    server.wait_event("load-failed", count=4)
    faults.clear()
    status = server.wait(
        "both wait", lambda status: sum(bool(slot["next_try_in"]) for slot in status["slots"]) > 0
    )
    longest = max(slot["next_try_in"] or 0.0 for slot in status["slots"])
    server.wait_ready()
    last = server.events("ready")[-2:]
    loads = sum(event["load_seconds"] for event in last)
    assert last[-1]["at"] - status["at"] <= longest + loads + 2.0, "two ticks of grace"
