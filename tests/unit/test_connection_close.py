"""Connections whose clients do not close are waited for by one thread, for a bounded time, in a bounded number."""

from __future__ import annotations

import socket
import time

from django_workerguard.server.workers import connection_close
from django_workerguard.server.workers.connection_close import Lingerer


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    return ours, theirs


def wait_for(condition) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_what_the_client_still_sends_does_not_cut_the_answer_off():
    lingerer = Lingerer()
    ours, theirs = pair()
    ours.sendall(b"answer")
    ours.shutdown(socket.SHUT_WR)
    lingerer.add(ours)
    theirs.sendall(b"x" * 10_000)
    assert theirs.recv(100) == b"answer"
    assert theirs.recv(100) == b""
    theirs.close()
    lingerer.finish()
    assert not lingerer._connections


def test_a_client_that_never_closes_is_closed(monkeypatch):
    monkeypatch.setattr(connection_close, "CLOSE_TIMEOUT", 0.05)
    lingerer = Lingerer()
    ours, theirs = pair()
    lingerer.add(ours)
    assert theirs.recv(1) == b"", "without an end of the client's"
    theirs.close()


def test_the_longest_there_makes_room_for_one_more(monkeypatch):
    monkeypatch.setattr(connection_close, "MAX_CONNECTIONS", 3)
    lingerer = Lingerer()
    pairs = [pair() for _ in range(5)]
    for ours, _ in pairs:
        lingerer.add(ours)
    assert wait_for(lambda: len(lingerer._connections) == 3)
    assert [theirs.recv(1) for _, theirs in pairs[:2]] == [b"", b""]
    for _, theirs in pairs:
        theirs.close()
    lingerer.finish()
    assert not lingerer._connections


def test_a_flood_from_the_client_ends_the_wait():
    lingerer = Lingerer()
    ours, theirs = pair()
    lingerer.add(ours)
    theirs.setblocking(False)

    def flood() -> bool:
        try:
            theirs.send(b"x" * 4096)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    assert wait_for(flood), "it was closed before the client stopped"
    theirs.close()
