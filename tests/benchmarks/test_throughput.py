"""CPU-seconds per 100,000 requests beside plain gunicorn: interleaved pairs, server and client on cores of their own."""

from __future__ import annotations

import os
import statistics

import pytest

from tests.benchmarks.measure import Load, interval, report, server, wrk

PAIRS = int(os.environ.get("BENCH_PAIRS", "15"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))


def one_run(kind: str, worker_class: str) -> tuple[float, Load]:
    arguments = ["--threads", "4"] if worker_class == "gthread" else []
    with server(kind, workers=1, worker_class=worker_class, pin=True, arguments=arguments) as running:
        wrk(running.port, seconds=1, pin=True)  # hot
        before = running.cpu_seconds()
        load = wrk(running.port, seconds=SECONDS, pin=True)
        return (running.cpu_seconds() - before) / load.requests * 100_000, load


@pytest.mark.needs("wrk")
@pytest.mark.parametrize("worker_class", ["sync", "gthread", "asgi"])
def test_cpu_per_request(worker_class):
    costs: dict[str, list[float]] = {"plain": [], "guarded": []}
    loads: dict[str, list[Load]] = {"plain": [], "guarded": []}
    for pair in range(PAIRS):
        for kind in ("plain", "guarded") if pair % 2 else ("guarded", "plain"):
            cost, load = one_run(kind, worker_class)
            costs[kind].append(cost)
            loads[kind].append(load)
    ratios = [plain / guarded for plain, guarded in zip(costs["plain"], costs["guarded"], strict=True)]
    mean, low, high = interval(ratios)
    lines = [
        f"{kind}: median {statistics.median(costs[kind]):.2f} CPU-s per 100,000, "
        f"p50 {statistics.median(load.p50_ms for load in loads[kind]):.2f} ms, "
        f"p99 {statistics.median(load.p99_ms for load in loads[kind]):.2f} ms, "
        f"errors {sum(load.errors for load in loads[kind])}"
        for kind in costs
    ]
    verdict = f"throughput per CPU, guarded to plain: {mean:.4f}, 95 % interval {low:.4f} to {high:.4f}"
    report(
        f"throughput, {worker_class}, {PAIRS} pairs", *lines, f"{verdict} (figure: lower end at least 0.98)"
    )
