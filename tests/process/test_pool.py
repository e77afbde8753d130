"""Celery's pool under the guard, on a real broker: never a task in a child that is not loaded."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.pools import PoolWorker, redis_server

BROKERS = [pytest.param("redis", marks=pytest.mark.needs("redis")), "filesystem"]
numbers = itertools.count()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def pool(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., PoolWorker]]:
    """Start workers that are taken down at the end; their logs are printed when the test failed."""
    workers: list[PoolWorker] = []

    def start(broker: str = "filesystem", *, fault: tuple[Any, ...] = (), **options: Any) -> PoolWorker:
        url = request.getfixturevalue("redis") if broker == "redis" else "filesystem://"
        queue = f"queue{os.getpid()}.{next(numbers)}"
        celery = {"CELERY_TASK_DEFAULT_QUEUE": queue, **options.pop("celery", {})}
        worker = PoolWorker(tmp_path / f"worker{len(workers)}", url, celery=celery, **options)
        workers.append(worker)
        if fault:
            worker.fault(*fault)
        return worker.start()

    yield start
    for worker in workers:
        worker.end()
        print(worker.log)


@pytest.mark.parametrize("broker", BROKERS)
def test_tasks_run_once_each_in_loaded_children(pool, broker):
    worker = pool(broker)
    worker.wait_ready()
    worker.send("note", *([n] for n in range(40)))
    worker.wait_ran(40)
    assert worker.ran() == {str(n): 1 for n in range(40)}
    assert all(prepared for _, _, prepared in worker.trace())
    status = worker.wait("forty counted", lambda: _sum(worker, "requests") == 40 and worker.status())
    assert status["kind"] == "celery"
    assert status["findings"] == []
    assert worker.stop() == 0
    assert not list((worker.directory / "run").glob("*.board")), "nothing is left behind"


def _sum(worker: PoolWorker, what: str) -> int:
    return sum(slot[what] for slot in worker.status()["slots"])


FAULTS = ["memory", "import", "exit", "interrupt", "os-exit", "kill", "segv"]


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_child_that_cannot_load_takes_no_task_and_is_tried_again(pool, broker, kind):
    worker = pool(broker, fault=("init", kind, 3), options={"LOAD_RETRY_DELAY": 0.2, "LOAD_RETRIES": 10})
    worker.send("note", *([n] for n in range(20)))
    worker.wait_ready()
    worker.wait_ran(20)
    assert worker.ran() == {str(n): 1 for n in range(20)}
    assert all(prepared for _, _, prepared in worker.trace())
    assert len(worker.events("load-failed")) == 3
    assert len(worker.events("back-off")) == 3


@pytest.mark.parametrize("kind", ["hang", "hang-in-c"])
@pytest.mark.parametrize("broker", BROKERS)
def test_a_load_that_hangs_is_ended_with_its_stacks(pool, broker, kind):
    worker = pool(broker, fault=("init", kind, 1), options={"LOAD_TIMEOUT": 1, "LOAD_RETRY_DELAY": 0.2})
    worker.wait_ready()
    failed = worker.events("load-failed")
    assert [event["type"] for event in failed] == ["load-timeout"]
    assert "pool_app.py" in worker.log
    assert "in fail" in worker.log


def test_a_slow_load_is_waited_for_at_boot_and_later(pool):
    """Celery's own time-out for a child that comes up later, 4 s, would kill it for ever."""
    worker = pool("filesystem", concurrency=1, fault=("init", "slow", 2))
    worker.wait_ready()
    os.kill(worker.pids()[0], signal.SIGKILL)
    worker.wait("the second load", lambda: len(worker.events("ready")) == 2)
    assert worker.events("load-failed") == []


# the figures


@pytest.mark.parametrize("broker", BROKERS)
def test_400_tasks_with_two_children_killed_and_three_failing_loads(pool, broker):
    """A task that a killed child had in hand is done again, which late acknowledgement asks for."""
    late = {"CELERY_TASK_ACKS_LATE": True, "CELERY_TASK_REJECT_ON_WORKER_LOST": True}
    worker = pool(broker, celery=late, options={"LOAD_RETRY_DELAY": 0.2})
    worker.wait_ready()
    worker.send("note", *([n, 0.02] for n in range(400)))
    worker.wait_ran(40)
    worker.fault("init", "memory", 3)
    killed = worker.pids()[:2]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    worker.wait("400 tasks", lambda: len(worker.ran()) == 400)
    worker.wait_ready()
    assert len(worker.events("load-failed")) == 3
    assert all(prepared for _, _, prepared in worker.trace()), "no task in a child that was not prepared"
    twice = {number for number, count in worker.ran().items() if count > 1}
    assert len(twice) <= 2, "only what the killed had in hand"
    assert " raised " not in worker.log or "WorkerLostError" in worker.log


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("broker", BROKERS)
def test_2000_tasks_while_every_child_is_recycled(pool, broker, late):
    worker = pool(
        broker,
        celery={"CELERY_TASK_ACKS_LATE": late, "CELERY_WORKER_PREFETCH_MULTIPLIER": 4},
        options={"MAX_WORKER_LIFETIME": "2s", "MIN_WORKER_LIFETIME": 0},
    )
    worker.wait_ready()
    worker.send("note", *([n, 0.04] for n in range(2000)))
    worker.wait_ran(2000, 100)
    recycled = Counter(event["slot"] for event in worker.events("retiring"))
    assert min(recycled[slot] for slot in range(1, 5)) >= 3
    assert worker.ran() == {str(n): 1 for n in range(2000)}, "none lost, none twice"
    assert fewest_there(worker.events()) >= 3, "never more than one away"
    assert worker.events("killed") + worker.events("aborted") == []


def fewest_there(events: list[dict[str, Any]]) -> int:
    """Return the least number of children that were there, from the time when all were, out of the journal."""
    there: set[int] = set()
    least = None
    for event in events:
        match event["event"]:
            case "ready":
                there.add(event["pid"])
            case "exited":
                there.discard(event["pid"])
        if len(there) == 4 and least is None:
            least = 4
        if least is not None:
            least = min(least, len(there))
    return least or 0


@pytest.mark.needs("redis")
def test_a_slot_that_never_loads_costs_next_to_nothing(pool):
    worker = pool("redis")
    worker.wait_ready()
    worker.fault("init", "import")
    before, since = cpu_seconds(worker.pid), time.monotonic()
    os.kill(worker.pids()[0], signal.SIGKILL)
    worker.wait("four failures", lambda: len(worker.events("load-failed")) >= 4)
    share = (cpu_seconds(worker.pid) - before) / (time.monotonic() - since)
    print(f"a slot that never loads: {share:.2%} of a core")
    spawned, failed = worker.events("spawned"), worker.events("load-failed")
    for slot in {event["slot"] for event in failed}:
        starts = [event["at"] for event in spawned if event["slot"] == slot]
        waits = [event["seconds"] for event in worker.events("back-off") if event["slot"] == slot]
        ends = [event["at"] for event in failed if event["slot"] == slot]
        for end, wait, start in zip(ends, waits, starts[2:], strict=False):
            assert start >= end + wait - 0.05, "one fork a back-off"
    longest = max(slot["next_try_in"] or 0 for slot in worker.status()["slots"])
    mended = time.time()
    worker.mend()
    worker.wait_ready()
    healed = max(event["at"] for event in worker.events("ready")) - mended
    print(f"healed {healed:.2f} s after the cause was gone; the longest wait was {longest:.2f} s")
    assert share < 0.03


def cpu_seconds(pid: int) -> float:
    """Return what a process and its dead children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


# the end


@pytest.mark.parametrize("broker", BROKERS)
def test_warm_shutdown_in_a_storm_is_bounded(pool, broker):
    """Celery's own hung there: for a child that waits to be read, or for a lock that a dead child holds."""
    worker = pool(
        broker,
        celery={"CELERY_WORKER_MAX_TASKS_PER_CHILD": 20, "CELERY_TASK_ACKS_LATE": True},
        options={"LOAD_RETRY_DELAY": 0.2, "MAX_WORKER_LIFETIME": 2, "MIN_WORKER_LIFETIME": 0},
    )
    worker.wait_ready()
    worker.fault("init", "memory", 50)
    worker.send("failing", *([n] for n in range(3000)))
    dice = random.Random(4)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        for pid in dice.sample(worker.pids(), min(1, len(worker.pids()))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, dice.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)))
        time.sleep(0.1)
    began = time.monotonic()
    assert worker.stop(patience=25) == 0
    print(f"{broker}: ended {time.monotonic() - began:.1f} s after SIGTERM, {len(worker.trace())} tasks done")
    assert all(prepared for _, _, prepared in worker.trace())


@pytest.mark.parametrize("broker", BROKERS)
def test_warm_shutdown_while_nobody_can_load(pool, broker):
    worker = pool(broker, fault=("init", "hang"), options={"LOAD_TIMEOUT": 0})
    worker.send("note", *([n] for n in range(40)))
    worker.wait("loads under way", lambda: len(worker.events("spawned")) >= 2)
    time.sleep(1.5)
    assert worker.stop(patience=20) == 0
    assert worker.trace() == []


@pytest.mark.parametrize("broker", BROKERS)
def test_warm_shutdown_waits_for_the_tasks_in_hand(pool, broker):
    worker = pool(broker)
    worker.wait_ready()
    worker.send("note", *([n, 8.0] for n in range(4)))
    worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
    assert worker.stop() == 0
    assert worker.ran() == {str(n): 1 for n in range(4)}


@pytest.mark.parametrize("broker", BROKERS)
def test_mercy_bounds_the_tasks_too_where_it_is_set(pool, broker):
    worker = pool(broker, options={"WORKER_RELOAD_MERCY": 1})
    worker.wait_ready()
    worker.send("note", *([n, 600.0] for n in range(4)))
    worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
    worker.stop(patience=20)
    assert worker.trace() == []


def test_cold_shutdown_leaves_nothing_behind(pool):
    worker = pool("filesystem")
    worker.wait_ready()
    os.kill(worker.pid, signal.SIGQUIT)
    worker.wait_exit()
    assert not list((worker.directory / "run").glob("*.board"))
