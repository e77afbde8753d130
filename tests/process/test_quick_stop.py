"""SIGQUIT, threads, and a budget of none."""

from __future__ import annotations

import signal

from tests.journal import least_ready
from tests.process.clients import OneRequest, in_flight
from tests.process.harness import Server


def test_sigquit_ends_the_server_whatever_it_has_in_hand(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()
    OneRequest(server, "/slow?seconds=50")
    server.wait("a request in flight", in_flight)
    server.signal(signal.SIGQUIT)
    assert server.wait_exit(20) == 0


def test_threads_answer_at_the_same_time(serve):
    server = serve("-k", "gthread", "--threads", "4", "-w", "1")
    server.wait_ready()
    clients = [OneRequest(server, "/slow?seconds=8") for _ in range(4)]
    server.wait("four in flight", lambda status: status["slots"][0]["in_flight"] == 4)
    for client in clients:
        client.join(40)
    assert [client.reply.status for client in clients] == [200] * 4
    server.wait("four counted", lambda status: status["slots"][0]["requests"] == 4)


def away_at_once(server: Server) -> int:
    """Return how many workers were asked to leave, at most, before the successor of the first was ready."""
    away = most = 0
    for event in server.events():
        match event["event"]:
            case "retiring":
                away += 1
            case "ready" if away:
                away -= 1
        most = max(most, away)
    return most


def test_without_a_surge_one_after_the_other_is_away(serve):
    server = serve("-w", "3", "--surge", "0")
    server.wait_ready()
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    assert away_at_once(server) == 1
    assert least_ready(server.events()) == 2
    assert server.statuses(10) == {200: 10}
