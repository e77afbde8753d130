"""How long requests took, as the histograms of the board count it, beside what a client measures."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter

import pytest

from django_workerguard.report.quantiles import quantile
from tests.process.harness import threads


def counted(status: dict) -> Counter[tuple[str, int]]:
    """Return the requests of all slots by class of status and number of bucket."""
    return Counter(
        {
            (name, bucket): sum(
                slot["durations"][name]["buckets"][bucket]
                for slot in status["slots"]
                if name in slot["durations"]
            )
            for name in ("2xx", "4xx", "5xx")
            for bucket in range(len(status["duration_buckets"]) + 1)
        }
    )


def test_what_is_counted_is_what_a_client_measures_and_it_survives_a_recycling(serve, worker_class):
    server = serve("--duration-buckets", "0.2,0.7,20", "--", "-k", worker_class, *threads(worker_class))
    server.wait_ready()
    bounds = server.status()["duration_buckets"]
    assert bounds == [0.2, 0.7, 20.0]
    measured: Counter[tuple[str, int]] = Counter()
    late = 4  # seconds by which an asynchronous worker may count the end after the client has the answer
    for path in ("/slow?seconds=0.4", "/missing", "/broken", "/slow?seconds=1.2", "/health/live/"):
        for _ in range(2):
            begun = time.monotonic()
            status = server.get(path).status
            if not path.startswith("/health"):
                measured[f"{status // 100}xx", bisect_left(bounds, time.monotonic() - begun + late)] += 1
    server.wait("all are counted", lambda status: sum(counted(status).values()) == 8)
    found = counted(server.status())
    for name in ("2xx", "4xx", "5xx"):
        for most in range(len(bounds) + 1):
            below, seen = (sum(all_of[name, one] for one in range(most + 1)) for all_of in (found, measured))
            assert below >= seen, "a client waits for as long as the worker takes, or nearly"
    assert found["2xx", 0] == 0, "each of them has slept"
    histograms = [slot["durations"] for slot in server.status()["slots"]]
    seconds = sum(one["2xx"]["seconds"] for one in histograms if "2xx" in one)
    assert 2 * (0.4 + 1.2) <= seconds < 2 * (0.4 + 1.2) + 20
    before = counted(server.status())
    gone = [server.kill_worker(1), server.kill_worker(2)]
    server.wait("two others", lambda status: not {slot["pid"] for slot in status["slots"]} & {None, *gone})
    server.wait_ready()
    assert counted(server.status()) == before


def test_the_quantiles_of_the_last_minute(serve):
    server = serve("--duration-buckets", "0.1,0.5,1")
    server.wait_ready()
    assert server.status()["latency"] is None
    for _ in range(9):
        server.get("/")
    server.get("/slow?seconds=0.7")
    status = server.wait(
        "the quantiles", lambda status: status["latency"] and status["latency"]["p95"] >= 0.5
    )
    latency = status["latency"]
    assert latency["p50"] <= 0.5 <= latency["p95"] <= latency["p99"] <= 1.0


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [0, 0, 0], None),
        (0.5, [10, 0, 0], 0.5),
        (0.5, [0, 10, 0], 1.5),
        (0.99, [0, 0, 10], 2.0),
        (0.5, [5, 5, 0], 1.0),
        (1.0, [5, 5, 0], 2.0),
    ],
)
def test_a_quantile(share, counts, expected):
    assert quantile(share, counts, [1.0, 2.0]) == expected
