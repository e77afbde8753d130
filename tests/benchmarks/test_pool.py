"""Celery's guarded pool beside Celery's own, in interleaved runs on one Redis: the incident, its price, its end."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks.measure import interval, judge
from tests.process.harness import WaitError
from tests.process.pools import PoolWorker, redis_server

pytestmark = pytest.mark.needs("redis")

TASKS = 4000
PAIRS = 12  # even: who comes first in a pair has another machine than who comes second
UNDISTURBED: tuple[dict[str, object], dict[str, object]] = ({}, {})
RECYCLED = (
    {"CELERY_WORKER_MAX_TASKS_PER_CHILD": 250},  # Celery's: four times each
    {"MAX_WORKER_LIFETIME": 1.5, "MIN_WORKER_LIFETIME": 0},
)
LATE = {"CELERY_TASK_ACKS_LATE": True, "CELERY_TASK_REJECT_ON_WORKER_LOST": True}
NAMES = {False: "stock", True: "guarded"}
LONGEST_END = 60.0  # seconds after which a worker that was asked to stop counts as hung
Start = Callable[..., "contextlib.AbstractContextManager[PoolWorker]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    numbers = itertools.count()

    with redis_server(tmp_path) as url:

        @contextlib.contextmanager
        def started(
            *, guarded: bool, celery: dict[str, Any], options: dict[str, Any]
        ) -> Iterator[PoolWorker]:
            name = f"{NAMES[guarded]}{next(numbers)}"
            worker = PoolWorker(
                tmp_path / name,
                url,
                guarded=guarded,
                celery={"CELERY_TASK_DEFAULT_QUEUE": name, **celery},
                options=options if guarded else {},
                arguments=("--without-gossip", "--without-mingle"),
            )
            worker.start()
            try:
                worker.wait("it is up", lambda: " ready." in worker.log)
                worker.wait("its children", lambda: len(children(worker)) == 4)
                time.sleep(2)
                yield worker
            finally:
                worker.end()

        yield started


def children(worker: PoolWorker) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(worker.pid).children()]
    return []


def interleaved(runs: int) -> Iterator[bool]:
    for run in range(runs):
        yield from (run % 2 == 0, run % 2 == 1)


def rate(start: Start, *, guarded: bool, recycled: bool) -> float:
    """Return the tasks a second of one worker that finds all of them waiting."""
    theirs, ours = RECYCLED if recycled else UNDISTURBED
    with start(guarded=guarded, celery={} if guarded else dict(theirs), options=dict(ours)) as worker:
        os.kill(worker.pid, signal.SIGSTOP)  # who sends must not take the cores from who works
        worker.send("note", *([n] for n in range(TASKS)))
        began = time.monotonic()
        os.kill(worker.pid, signal.SIGCONT)
        worker.wait_ran(TASKS, 120)
        seconds = time.monotonic() - began
        assert set(worker.ran().values()) == {1}
        if guarded and recycled:
            print(f"   guarded: {len(worker.events('retiring'))} children recycled")
    return TASKS / seconds


@pytest.mark.parametrize("recycled", [False, True], ids=["undisturbed", "recycled"])
def test_throughput(start, recycled):
    rates: dict[bool, list[float]] = {False: [], True: []}
    for guarded in interleaved(PAIRS):
        rates[guarded].append(rate(start, guarded=guarded, recycled=recycled))
    ratios = [ours / theirs for ours, theirs in zip(rates[True], rates[False], strict=True)]
    mean, low, high = interval(ratios)
    ratio = statistics.median(rates[True]) / statistics.median(rates[False])
    judge(
        f"a pool of 4, {TASKS} tasks, {'recycled' if recycled else 'undisturbed'}, {PAIRS} interleaved pairs",
        *(f"{NAMES[kind]}: median {statistics.median(found):.0f} tasks/s" for kind, found in rates.items()),
        f"by pairs {mean:.3f}, 95 % interval {low:.3f} to {high:.3f}",
        figures=[(ratio >= 0.98, f"the medians' ratio is at least 0.98: {ratio:.3f}")],
    )


def test_the_incident(start):
    """400 tasks, two children killed, the next three loads fail."""
    unprepared: dict[bool, list[int]] = {False: [], True: []}
    for guarded in interleaved(3):
        with start(guarded=guarded, celery=LATE, options={"LOAD_RETRY_DELAY": 0.2}) as worker:
            worker.fault("init", "memory", 3)
            victims = children(worker)[:2]
            worker.send("note", *([n, 0.02] for n in range(400)))
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            worker.wait("400 tasks", lambda worker=worker: len(worker.ran()) == 400, 120)
            unprepared[guarded].append(sum(not prepared for _, _, prepared in worker.trace()))
    print(
        f"\n== 400 tasks, two of four children killed, three loads fail: tasks run by an unloaded child, 3 runs: {unprepared}"
    )
    assert unprepared[True] == [0, 0, 0]


def test_a_slot_that_never_loads(start):
    """What a child costs that ends whenever it is made."""
    seconds = 20.0
    shares: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for guarded in interleaved(2):
        with start(guarded=guarded, celery={}, options={}) as worker:
            worker.fault("init", "exit")
            main = psutil.Process(worker.pid)
            before, since = sum(main.cpu_times()[:4]), time.monotonic()
            os.kill(children(worker)[0], signal.SIGKILL)
            seen: set[int] = set()
            while time.monotonic() < since + seconds:
                seen.update(children(worker))
                time.sleep(0.01)
            share = (sum(main.cpu_times()[:4]) - before) / (time.monotonic() - since)
            shares[guarded].append((share, (len(seen) - 4) / seconds))
    print(f"\n== one slot of four that never loads, for {seconds:.0f} s, 2 runs:")
    for guarded, found in shares.items():
        told = ", ".join(f"{share:.1%} of a core, {forks:.1f} children a second" for share, forks in found)
        print(f"   {NAMES[guarded]}: {told}")
    assert max(share for share, _ in shares[True]) < 0.03


def test_a_warm_shutdown_in_a_storm(start):
    """Failing tasks, children that are recycled and children that are killed, and then SIGTERM."""
    ends: dict[bool, list[str]] = {False: [], True: []}
    for guarded in interleaved(4):
        celery = {"CELERY_WORKER_MAX_TASKS_PER_CHILD": 20, "CELERY_TASK_ACKS_LATE": True}
        options = {"LOAD_RETRY_DELAY": 0.2, "MAX_WORKER_LIFETIME": 2, "MIN_WORKER_LIFETIME": 0}
        with start(guarded=guarded, celery=celery, options=options) as worker:
            worker.send("failing", *([n] for n in range(3000)))
            dice = random.Random(4)
            until = time.monotonic() + 4
            while time.monotonic() < until:
                there = children(worker)  # once: it changes all the time
                for pid in dice.sample(there, min(1, len(there))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, dice.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)))
                time.sleep(0.1)
            began = time.monotonic()
            try:
                worker.stop(LONGEST_END)
                ends[guarded].append(f"{time.monotonic() - began:.1f} s")
            except WaitError:
                ends[guarded].append("hung")
    print(f"\n== a warm shutdown in a storm, 4 runs, hung after {LONGEST_END:.0f} s:")
    for guarded, found in ends.items():
        print(f"   {NAMES[guarded]}: {', '.join(found)}")
    assert "hung" not in ends[True]
