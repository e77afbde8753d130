"""CPU-seconds per 100,000 requests beside plain gunicorn: interleaved pairs, server and client on cores of their own."""

from __future__ import annotations

import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.benchmarks.measure import Load, interval, judge, server, wrk

PAIRS = int(os.environ.get("BENCH_PAIRS", "15"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "8"))


def one_pair(worker_class: str, *, guarded_first: bool) -> dict[str, tuple[float, Load]]:
    """Put the same load on both servers at the same time, on the same core: whatever drifts hits both alike."""
    arguments = ["--threads", "4"] if worker_class == "gthread" else []
    kinds = ("guarded", "plain") if guarded_first else ("plain", "guarded")
    with ExitStack() as stack:
        running = {
            kind: stack.enter_context(
                server(kind, workers=1, worker_class=worker_class, pin=True, arguments=arguments)
            )
            for kind in kinds
        }

        def load(kind: str, seconds: int) -> Load:
            return wrk(running[kind].port, seconds=seconds, connections=4, pin=True)

        with ThreadPoolExecutor(len(kinds)) as pool:
            list(pool.map(lambda kind: load(kind, 1), kinds))  # hot
            before = {kind: running[kind].cpu_seconds() for kind in kinds}
            loads = dict(zip(kinds, pool.map(lambda kind: load(kind, SECONDS), kinds), strict=True))
        cost = {kind: running[kind].cpu_seconds() - before[kind] for kind in kinds}
    return {kind: (cost[kind] / loads[kind].requests * 100_000, loads[kind]) for kind in kinds}


@pytest.mark.needs("wrk")
@pytest.mark.parametrize("worker_class", ["sync", "gthread", "asgi"])
def test_cpu_per_request(worker_class):
    costs: dict[str, list[float]] = {"plain": [], "guarded": []}
    loads: dict[str, list[Load]] = {"plain": [], "guarded": []}
    for pair in range(PAIRS):
        for kind, (cost, seen) in one_pair(worker_class, guarded_first=bool(pair % 2)).items():
            costs[kind].append(cost)
            loads[kind].append(seen)
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
    figures = [(low >= 0.98, "the lower end is at least 0.98")] if worker_class != "asgi" else []
    judge(f"throughput, {worker_class}, {PAIRS} pairs", *lines, verdict, figures=figures)
