"""The incident: 8 workers, two killed, their replacements' first loads fail. Beside plain gunicorn in one run; with a mold."""

from __future__ import annotations

import http.client
import math
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from django_workerguard.scoreboard.places import find_servers
from django_workerguard.scoreboard.snapshot import snapshot
from tests.benchmarks.measure import Running, judge, report, server

CLIENTS = 4
WORKERS = 8
LOAD = 2.0  # seconds that a load takes beside four clients, and a tick
FAILING = 5.0  # seconds during which loads fail
LONG_FAILING = 15.0  # the same, with a mold
KILLED = 2
WHOLE_WITHIN = 1.0  # seconds until every worker is ready again, with a mold
SETTLED = 12.0  # seconds until the death of a worker is not an early one


class Client(threading.Thread):
    """Requests one after another, over new connections, until told to stop; remembers what became of each."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.seen: Counter[str] = Counter()
        self.going = True

    def run(self) -> None:
        while self.going:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("GET", "/", headers={"Connection": "close"})
                response = connection.getresponse()
                response.read()
                self.seen[str(response.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.seen[type(error).__name__] += 1
                time.sleep(0.01)
            finally:
                connection.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def incident(kind: str, fail_file: Path) -> tuple[int, bool, bool]:
    os.environ["FAIL_FILE"] = str(fail_file)
    try:
        with server(kind, workers=WORKERS, worker_class="sync") as running:
            time.sleep(3)  # all eight have loaded
            return _incident(running, fail_file, kind)
    finally:
        del os.environ["FAIL_FILE"]


def status_of(running: Running) -> dict[str, Any] | None:
    """Return the snapshot of a guarded server; None of any other."""
    for found in find_servers(None, environ=os.environ, uid=os.geteuid()):
        shot = snapshot(found.board) if found.pid == running.pid else None
        found.board.close()
        if shot is not None:
            return shot
    return None


def largest_wait(running: Running) -> float:
    shot = status_of(running)
    return max((slot["next_try_in"] or 0.0 for slot in shot["slots"]), default=0.0) if shot else 0.0


def all_ready(running: Running) -> bool:
    shot = status_of(running)
    return shot["ready"] == WORKERS if shot else len(running.children) == WORKERS


def _incident(running: Running, fail_file: Path, kind: str) -> tuple[int, bool, bool]:
    """Return how many requests failed, whether the server is whole again, and whether that was in time."""
    clients = [Client(running.port) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    fail_file.touch()
    for pid in running.children[-KILLED:]:
        os.kill(pid, signal.SIGKILL)
    time.sleep(FAILING)
    fail_file.unlink()
    started = time.monotonic()
    wait = 0.0
    while alive(running.pid) and not all_ready(running) and time.monotonic() - started < 40:
        wait = max(wait, largest_wait(running))
        time.sleep(0.02)
    healed = time.monotonic() - started
    lives = alive(running.pid)
    for client in clients:
        client.going = False
    for client in clients:
        client.join()
    seen = sum((client.seen for client in clients), Counter())
    failed = sum(count for what, count in seen.items() if what != "200")
    state = (
        f"alive, {WORKERS} of {WORKERS} after {healed:.1f} s (the longest wait shown: {wait:.1f} s)"
        if lives
        else "dead"
    )
    print(f"   {kind}: {seen['200']} answered, {failed} failed {dict(seen)}; the server is {state}")
    return failed, lives and all_ready(running), healed <= wait + 2 * LOAD


@pytest.mark.parametrize("run", range(3))
def test_the_incident(tmp_path, run):
    report(f"the incident, run {run + 1}")
    incident("plain", tmp_path / "fail-plain")
    failed, whole, in_time = incident("guarded", tmp_path / "fail-guarded")
    judge(
        f"the guarded server in run {run + 1}",
        figures=[
            (failed <= CLIENTS, "no more requests failed than were in hand"),
            (whole, f"{WORKERS} of {WORKERS} are ready again"),
            (in_time, f"within the longest wait that was shown and two loads of {LOAD:g} s"),
        ],
    )


def seconds_until_whole(running: Running, gone: list[int]) -> float:
    """Return how long it takes until other workers are in the place of those that are gone, and ready."""
    begun = time.monotonic()
    while time.monotonic() < begun + LONG_FAILING:
        shot = status_of(running)
        if (
            shot is not None
            and shot["ready"] == WORKERS
            and not {slot["pid"] for slot in shot["slots"]} & set(gone)
        ):
            return time.monotonic() - begun
        time.sleep(0.005)
    return math.inf


@pytest.mark.parametrize("run", range(3))
def test_the_incident_with_a_mold(tmp_path, run, monkeypatch):
    fail_file = tmp_path / "fail"
    monkeypatch.setenv("FAIL_FILE", str(fail_file))
    with server("guarded", workers=WORKERS, worker_class="sync", guard=["--load", "mold"]) as running:
        time.sleep(SETTLED)
        clients = [Client(running.port) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        fail_file.touch()
        shot = status_of(running)
        assert shot is not None
        gone = [slot["pid"] for slot in shot["slots"][-KILLED:]]
        begun = time.monotonic()
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        whole = seconds_until_whole(running, gone)
        time.sleep(max(0.0, begun + LONG_FAILING - time.monotonic()))
        for client in clients:
            client.going = False
        for client in clients:
            client.join()
    seen = sum((client.seen for client in clients), Counter())
    failed = sum(count for what, count in seen.items() if what != "200")
    judge(
        f"the incident with a mold, run {run + 1}: {KILLED} of {WORKERS} killed, no load succeeds for {LONG_FAILING:g} s",
        f"{seen['200']} answered, {failed} failed {dict(seen)}",
        figures=[
            (failed <= KILLED, f"{failed} failed, at most the {KILLED} in the hands of the killed workers"),
            (
                whole < WHOLE_WITHIN,
                f"{WORKERS} of {WORKERS} after {whole:.2f} s of less than {WHOLE_WITHIN:g}",
            ),
        ],
    )
