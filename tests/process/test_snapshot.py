"""A snapshot never contradicts itself, however fast it is read while workers come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

from tests.process.harness import Server

KILLS = 12


def contradictions(server: Server, over: threading.Event, found: list[dict]) -> None:
    """Read as fast as possible, and collect what says ready of another number of workers than it lists as ready."""
    while not over.is_set():
        status = server.status()
        listed = [slot for slot in status["slots"] if slot["state"] == "ready" and slot["pid"]]
        if len(listed) != status["ready"]:
            found.append(status)


def test_the_parts_of_a_snapshot_agree_with_each_other(serve):
    server = serve(workers=4)
    server.wait_ready()
    over, found = threading.Event(), []
    reader = threading.Thread(target=contradictions, args=(server, over, found))
    reader.start()
    try:
        for number in range(KILLS):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.slot(number % 4 + 1)["pid"], signal.SIGKILL)
            server.wait_event("ready", count=5 + number)
            server.wait_ready()
    finally:
        over.set()
        reader.join()
    assert found == []
