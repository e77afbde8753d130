"""Celery's guarded pool beside Celery's own, in interleaved runs on one Redis: tasks a second."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from tests.process.pools import PoolWorker, redis_server

TASKS = 4000
PAIRS = 7
UNDISTURBED: tuple[dict[str, object], dict[str, object]] = ({}, {})
RECYCLED = (
    {"CELERY_WORKER_MAX_TASKS_PER_CHILD": 250},  # Celery's: four times each
    {"MAX_WORKER_LIFETIME": 1.5, "MIN_WORKER_LIFETIME": 0},
)


def rate(directory: Path, url: str, *, guarded: bool, run: int, recycled: bool) -> float:
    """Return the tasks a second of one worker, from the first sent to the last done."""
    theirs, ours = RECYCLED if recycled else UNDISTURBED
    worker = PoolWorker(
        directory / f"{'guarded' if guarded else 'stock'}{run}{recycled}",
        url,
        guarded=guarded,
        celery={"CELERY_TASK_DEFAULT_QUEUE": f"{guarded}{run}{recycled}", **({} if guarded else theirs)},
        options=dict(ours) if guarded else {},
        arguments=("--without-gossip", "--without-mingle"),
    )
    worker.start()
    try:
        worker.wait("it is up", lambda: " ready." in worker.log)
        time.sleep(2)
        began = time.monotonic()
        worker.send("note", *([n] for n in range(TASKS)))
        worker.wait_ran(TASKS, 120)
        seconds = time.monotonic() - began
        assert set(worker.ran().values()) == {1}
        if guarded and recycled:
            slots = [event["slot"] for event in worker.events("retiring")]
            print(f"   guarded run {run}: {len(slots)} children recycled")
    finally:
        worker.end()
    return TASKS / seconds


@pytest.mark.needs("redis")
@pytest.mark.parametrize("recycled", [False, True], ids=["undisturbed", "recycled"])
def test_throughput_beside_the_stock_pool(tmp_path, recycled):
    ratios, guarded_rates, stock_rates = [], [], []
    with redis_server(tmp_path) as url:
        for run in range(PAIRS):
            first = run % 2 == 0
            rates = {
                guarded: rate(tmp_path, url, guarded=guarded, run=run, recycled=recycled)
                for guarded in (first, not first)
            }
            guarded_rates.append(rates[True])
            stock_rates.append(rates[False])
            ratios.append(rates[True] / rates[False])
    print(
        f"\n== a pool of 4, {TASKS} tasks, {'recycled' if recycled else 'undisturbed'}, {PAIRS} interleaved pairs:\n"
        f"   stock {statistics.median(stock_rates):.0f} tasks/s, guarded {statistics.median(guarded_rates):.0f} tasks/s, "
        f"median ratio {statistics.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in sorted(ratios))})"
    )
    assert statistics.median(ratios) >= 0.98
