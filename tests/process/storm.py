"""Kill, reload, and fail loads at random under load, and look at each answer.

No loaded worker may have been there at a 503, only a killed worker may lose a request, and all other answers are 200.

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
from dataclasses import dataclass
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
LOST = "lost"  # the connection ended without an answer
Interval = tuple[float, float]


class Clients:
    """Ask without a pause, and keep when each 503 was asked for and had come."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        self._lock = threading.Lock()
        self.refused: list[Interval] = []
        self.answers: Counter[int | str] = Counter()

    def _ask(self) -> None:
        while not self._over.is_set():
            sent = time.time()
            answer: int | str
            try:
                answer = self._server.get("/", timeout=60).status
            except (ConnectionResetError, BrokenPipeError, http.client.HTTPException):
                answer = LOST
            except OSError as error:
                answer = type(error).__name__
            with self._lock:
                self.answers[answer] += 1
                if answer == 503:
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
    """Return the 503s in whose whole time some worker was loaded, be it one after the other. Pure."""
    covered = _joined((since + MOMENT, until - MOMENT) for since, until in loaded)
    return [
        (sent, received)
        for sent, received in refused
        if any(since <= sent and received <= until for since, until in covered)
    ]


def _joined(lives: Iterable[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for since, until in sorted(lives):
        if until <= since:
            continue
        if joined and since <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(until, joined[-1][1]))
        else:
            joined.append((since, until))
    return joined


@dataclass(frozen=True)
class Outcome:
    """What was done, and what the clients saw."""

    done: Counter[str]
    killed: int  # ready or loading workers, from outside
    answers: Counter[int | str]
    wrong: list[Interval]
    errors: int  # of the arbiter's own

    def faults(self) -> list[str]:
        """Say what must not be. A sync worker that is killed loses one request."""
        found = (
            [f"{len(self.wrong)} x 503 while a loaded worker was there: {self.wrong[:3]}"]
            if self.wrong
            else []
        )
        found += [
            f"{count} x {answer}" for answer, count in self.answers.items() if answer not in (200, 503, LOST)
        ]
        if self.answers[LOST] > self.killed:
            found.append(f"{self.answers[LOST]} requests lost by {self.killed} killed workers")
        if not self.answers[200]:
            found.append("no request was served")
        if self.errors:
            found.append(f"{self.errors} errors of the arbiter's own")
        return found


def storm(server: Server, faults: Faults, *, seed: int, goes_on: Callable[[int], bool]) -> Outcome:
    """Do one thing after the other for as long as ``goes_on`` says of their number, then let all heal."""
    dice = random.Random(seed)
    lives, done, killed = Lives(), Counter[str](), 0
    server.wait_ready()
    with Clients(server) as clients:
        while goes_on(done.total()):
            name, act = dice.choice(list(ACTS.items()))
            done[name] += 1
            with contextlib.suppress(StopIteration):
                killed += act(server, faults, dice)
            until = time.monotonic() + dice.choice((0.0, 0.1, 0.5, 2.0))
            while time.monotonic() < until:
                lives.feed(server)
                time.sleep(0.02)
            lives.feed(server)
        faults.clear()
        server.wait_ready()
    lives.feed(server)
    lives.finish()
    return Outcome(
        done=done,
        killed=killed,
        answers=clients.answers,
        wrong=wrong(clients.refused, lives.loaded),
        errors=server.status()["arbiter"]["errors"],
    )


def kill(server: Server, _: Faults, dice: random.Random) -> int:
    """Kill a worker. Like every act, return how many workers were killed."""
    pids = server.pids()
    return _send(signal.SIGKILL, [dice.choice(pids)] if pids else [])


def kill_all(server: Server, _: Faults, dice: random.Random) -> int:
    return _send(signal.SIGKILL, server.pids())


def terminate(server: Server, _: Faults, dice: random.Random) -> int:
    _send(signal.SIGTERM, server.pids()[:1])
    return 0


def reload(server: Server, _: Faults, dice: random.Random) -> int:
    server.signal(signal.SIGHUP)
    return 0


def fail_loads(_: Server, faults: Faults, dice: random.Random) -> int:
    place, kind = dice.choice(
        (("ready", "memory"), ("urlconf", "exception"), ("ready", "kill"), ("ready", "slow"))
    )
    faults.set(place, kind, dice.randint(1, 8))
    return 0


def _send(number: signal.Signals, pids: list[int]) -> int:
    sent = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            sent += 1
    return sent


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
        outcome = storm(server, faults, seed=seed, goes_on=lambda _: time.monotonic() < until)
    finally:
        server.end()
        shutil.rmtree(directory, ignore_errors=True)
    found = outcome.faults()
    print(
        f"seed {seed}: {dict(outcome.done)}; {outcome.killed} workers killed; answers {dict(outcome.answers)}\n"
        f"{'; '.join(found) or 'every 503 came while no worker was loaded, and only killed workers lost a request'}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 15.0, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    )
