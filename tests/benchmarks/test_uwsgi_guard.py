"""The incident under uWSGI: 8 workers, two killed while loads fail for five seconds. With the guard in place, and without."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.benchmarks.measure import judge, report, server
from tests.benchmarks.test_incident import CLIENTS, FAILING, WORKERS, Client

AFTERWARDS = 20.0  # seconds that are measured once the cause is gone
GRACE = 10.0  # seconds: two turns of two loads each, for two workers
OPTIONS = ["--enable-threads"]


@dataclass
class Watch(threading.Thread):
    """Looks ten times a second how many requests of the clients have failed so far."""

    clients: list[Client]
    looks: list[tuple[float, int, int]] = field(default_factory=list)
    going: bool = True

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while self.going:
            good = sum(client.seen["200"] for client in self.clients)
            total = sum(sum(client.seen.copy().values()) for client in self.clients)
            self.looks.append((time.monotonic(), total, total - good))
            time.sleep(0.1)

    def share(self, begin: float, end: float) -> float:
        """Return the share of requests that failed between two times."""
        looks = [look for look in self.looks if begin <= look[0] <= end]
        total, failed = looks[-1][1] - looks[0][1], looks[-1][2] - looks[0][2]
        return failed / total if total else 0.0

    def last_failure(self) -> float:
        """Return when the latest failed request was seen."""
        return next((at for at, _, failed in self.looks if failed == self.looks[-1][2]), 0.0)


def incident(fail_file: Path, *, guarded: bool) -> tuple[float, float, float]:
    """Return the share of failed requests while loads fail and at the end, and the seconds to the last failure."""
    os.environ["FAIL_FILE"] = str(fail_file)
    if guarded:
        os.environ["UWSGI_GUARD"] = "1"
    try:
        with server("uwsgi", workers=WORKERS, worker_class="sync", arguments=OPTIONS) as running:
            time.sleep(8)  # all eight have loaded
            clients = [Client(running.port) for _ in range(CLIENTS)]
            watch = Watch(clients)
            for thread in (*clients, watch):
                thread.start()
            time.sleep(1)
            fail_file.touch()
            begun = time.monotonic()
            for pid in running.children[-2:]:
                os.kill(pid, signal.SIGKILL)
            time.sleep(FAILING)
            fail_file.unlink()
            gone = time.monotonic()
            time.sleep(AFTERWARDS)
            watch.going = False
            for client in clients:
                client.going = False
            for thread in (*clients, watch):
                thread.join()
    finally:
        os.environ.pop("UWSGI_GUARD", None)
        del os.environ["FAIL_FILE"]
    during, after = watch.share(begun, gone), watch.share(gone + GRACE, gone + AFTERWARDS)
    return during, after, max(0.0, watch.last_failure() - gone)


@pytest.mark.parametrize("run", range(3))
def test_the_incident_under_uwsgi(tmp_path, run):
    report(f"the incident under uWSGI, run {run + 1}")
    for guarded in (False, True):
        during, after, last = incident(tmp_path / f"fail-{guarded}", guarded=guarded)
        name = "with the guard" if guarded else "without it"
        print(
            f"   {name}: {during:.1%} failed while loads failed; {last:.1f} s from then on to the last failure; "
            f"{after:.1%} failed from {GRACE:g} s to {AFTERWARDS:g} s after it"
        )
    judge(
        f"the guard under uWSGI in run {run + 1}",
        figures=[(after == 0, f"no request failed from {GRACE:g} s after the cause was gone")],
    )
