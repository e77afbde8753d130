"""Kill, reload, and fail loads at random under load, and look at each 503: no loaded worker may have been there.

``python -m tests.process.storm [MINUTES [SEED]]`` is a part of `make soak`; the suite runs a short one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from django_workerguard.scoreboard.journal import read_events
from tests.process.harness import PROJECT, Faults, Server

OPTIONS = (
    *("-w", "3", "--min-worker-lifetime", "0", "--load-retry-delay", "50ms", "--load-retry-max-delay", "1s"),
    *("--load-retries", "1000000", "--stand-in-after", "0", "--load-timeout", "5"),
)
CLIENTS = 4
MOMENT = 0.05  # seconds: an answer that was begun, and a journal's line, are not of one instant
GONE = ("exited", "killed", "aborted", "retiring")
Interval = tuple[float, float]


class Clients:
    """Ask without a pause, and keep when each 503 was asked for and had come."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        self._lock = threading.Lock()
        self.refused: list[Interval] = []
        self.statuses: Counter[int] = Counter()

    def _ask(self) -> None:
        while not self._over.is_set():
            sent = time.time()
            try:
                status = self._server.get("/", timeout=60).status
            except (OSError, http.client.HTTPException):
                status = 0  # it was in the hands of a worker that was killed
            with self._lock:
                self.statuses[status] += 1
                if status == 503:
                    self.refused.append((sent, time.time()))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)


class Lives:
    """From when to when each worker was loaded, by the journal's own times."""

    def __init__(self) -> None:
        self._seen = 0
        self._ready: dict[int, float] = {}
        self.loaded: list[Interval] = []

    def feed(self, server: Server) -> None:
        with contextlib.suppress(OSError), server.board() as board:
            for event in read_events(board, after=self._seen):
                self._seen = event["number"]
                self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        pid = event.get("pid", 0)
        if event["event"] == "ready":
            self._ready[pid] = event["at"]
        elif event["event"] in GONE and pid in self._ready:
            self.loaded.append((self._ready.pop(pid), event["at"]))

    def finish(self) -> None:
        self.loaded += [(since, float("inf")) for since in self._ready.values()]


def wrong(refused: Iterable[Interval], loaded: Iterable[Interval]) -> list[Interval]:
    """Return the 503s in whose whole time some worker was loaded. Pure."""
    lives = list(loaded)
    return [
        (sent, received)
        for sent, received in refused
        if any(since + MOMENT <= sent and received <= until - MOMENT for since, until in lives)
    ]


def storm(
    server: Server, faults: Faults, *, seed: int, goes_on: Callable[[int], bool]
) -> tuple[Clients, Lives, Counter[str]]:
    """Do one thing after the other for as long as ``goes_on`` says of their number, then let all heal."""
    dice = random.Random(seed)
    lives, done = Lives(), Counter[str]()
    server.wait_ready()
    with Clients(server) as clients:
        while goes_on(done.total()):
            name, act = dice.choice(list(ACTS.items()))
            done[name] += 1
            with contextlib.suppress(ProcessLookupError, StopIteration):
                act(server, faults, dice)
            until = time.monotonic() + dice.choice((0.0, 0.1, 0.5, 2.0))
            while time.monotonic() < until:
                lives.feed(server)
                time.sleep(0.02)
            lives.feed(server)
        faults.clear()
        server.wait_ready()
    lives.feed(server)
    lives.finish()
    return clients, lives, done


def kill(server: Server, _: Faults, dice: random.Random) -> None:
    if pids := server.pids():
        os.kill(dice.choice(pids), signal.SIGKILL)


def kill_all(server: Server, _: Faults, dice: random.Random) -> None:
    for pid in server.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def terminate(server: Server, _: Faults, dice: random.Random) -> None:
    for pid in server.pids()[:1]:
        os.kill(pid, signal.SIGTERM)


def reload(server: Server, _: Faults, dice: random.Random) -> None:
    server.signal(signal.SIGHUP)


def fail_loads(_: Server, faults: Faults, dice: random.Random) -> None:
    place, kind = dice.choice(
        (("ready", "memory"), ("urlconf", "exception"), ("ready", "kill"), ("ready", "slow"))
    )
    faults.set(place, kind, dice.randint(1, 8))


ACTS = {
    "kill": kill,
    "kill all": kill_all,
    "terminate": terminate,
    "reload": reload,
    "fail loads": fail_loads,
}


def main(minutes: float, seed: int) -> int:
    directory = Path(tempfile.mkdtemp(prefix="workerguard-storm-"))
    faults = Faults(directory / "faults")
    environ = {"DJANGO_SETTINGS_MODULE": "guinea_settings", "GUINEA_FAULTS": str(faults.directory)}
    server = Server(PROJECT, directory / "run", OPTIONS, environ=environ)
    server.start()
    until = time.monotonic() + 60 * minutes
    try:
        clients, lives, done = storm(server, faults, seed=seed, goes_on=lambda _: time.monotonic() < until)
        errors = server.status()["arbiter"]["errors"]
    finally:
        server.end()
        shutil.rmtree(directory, ignore_errors=True)
    found = wrong(clients.refused, lives.loaded)
    print(
        f"seed {seed}: {dict(done)}; answers {dict(clients.statuses)}; {len(lives.loaded)} workers were loaded"
    )
    print(f"503 while a loaded worker was there: {len(found)}; errors of the arbiter's own: {errors}")
    return 1 if found or errors else 0


if __name__ == "__main__":
    sys.exit(
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 15.0, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    )
