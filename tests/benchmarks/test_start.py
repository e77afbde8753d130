"""Time to all ready, memory of arbiter and workers, and what a probe costs."""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import time

import pytest

from tests.benchmarks.measure import (
    ROOT,
    SITE,
    Running,
    each_answers_once,
    judge,
    report,
    resident_megabytes,
    server,
)

RUNS = 7
WORKERS = 4


def all_answer(running: Running, started: float) -> float:
    """Return the seconds until as many different workers have answered."""
    answered = 0
    with each_answers_once() as suspend:
        while answered < WORKERS and time.monotonic() - started < 30:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            try:
                connection.request("GET", "/", headers={"Connection": "close"})
                answered = suspend(int(connection.getresponse().read()))
            finally:
                connection.close()
        return time.monotonic() - started


@pytest.mark.parametrize(
    "worker_class", ["sync", "gthread", "gevent", "asgi", "uvicorn_worker.UvicornWorker"]
)
def test_time_and_memory(worker_class):
    lines = []
    for kind in ("plain", "guarded"):
        times, arbiters, workers = [], [], []
        for _ in range(RUNS):
            started = time.monotonic()
            with server(kind, workers=WORKERS, worker_class=worker_class) as running:
                times.append(all_answer(running, started))
                arbiters.append(resident_megabytes(running.pid))
                workers.append(statistics.fmean(resident_megabytes(pid, "Pss") for pid in running.children))
        lines.append(
            f"{kind}: every worker has answered after {statistics.median(times):.2f} s, "
            f"arbiter {statistics.median(arbiters):.1f} MB resident, "
            f"a child {statistics.median(workers):.1f} MB (its share)"
        )
    report(f"start with {WORKERS} workers, {worker_class}, median of {RUNS}", *lines)


def test_what_a_probe_costs():
    def median_ms(command: list[str]) -> float:
        """Run it where a person or a probe would: in the project's directory, which has a manage.py."""
        times = []
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        for _ in range(31):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environ, cwd=SITE)
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1000

    probe = os.path.join(os.path.dirname(sys.executable), "workerguard")
    command = [probe] if os.path.exists(probe) else [sys.executable, "-m", "django_workerguard.cli"]
    with server("guarded", workers=1, worker_class="sync"):
        nothing = median_ms([sys.executable, "-c", "pass"])
        probing = median_ms([*command, "probe", "ready"])
    judge(
        "a probe, median of 31",
        f"python -c pass: {nothing:.1f} ms, workerguard probe ready: {probing:.1f} ms, ratio {probing / nothing:.2f}",
        figures=[(probing <= 2.5 * nothing, "at most 2.5 times python -c pass")],
    )
