"""Celery's pool under the guard, on a real broker: never a task in a child that is not loaded."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.app.defaults import NAMESPACES

from django_workerguard.config.arbiter_signals import FOR_ARBITER
from django_workerguard.report.verdict import LONGEST_SILENCE
from tests.process.harness import LONG_ENOUGH
from tests.process.pools import PATH, PoolWorker, rabbitmq_server, redis_server

RABBITMQ = pytest.param("rabbitmq", marks=pytest.mark.needs("rabbitmq"))
BROKERS = [pytest.param("redis", marks=pytest.mark.needs("redis")), "filesystem"]
numbers = itertools.count()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as url:
        yield url


@pytest.fixture
def pool(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., PoolWorker]]:
    """Start workers that are taken down at the end; their logs are printed when the test failed."""
    workers: list[PoolWorker] = []

    def start(
        broker: str = "filesystem",
        *,
        fault: tuple[Any, ...] = (),
        faults: dict[str, int] | None = None,  # in the first loads, one after another
        **options: Any,
    ) -> PoolWorker:
        url = options.pop("url", None) or (
            "filesystem://" if broker == "filesystem" else request.getfixturevalue(broker)
        )
        queue = f"queue{os.getpid()}.{next(numbers)}"
        celery = {"CELERY_TASK_DEFAULT_QUEUE": queue, **options.pop("celery", {})}
        worker = PoolWorker(tmp_path / f"worker{len(workers)}", url, celery=celery, **options)
        workers.append(worker)
        if fault:
            worker.fault(*fault)
        if faults:
            worker.fault("init", "\n".join(f"{kind} {times}" for kind, times in faults.items()))
        return worker.start()

    yield start
    for worker in workers:
        worker.end()
        print(worker.log)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("broker", [*BROKERS, RABBITMQ])
def test_a_pool_from_its_start_to_its_stop(pool, broker, subtests):
    worker = pool(broker, options={"MIN_WORKER_LIFETIME": 0})
    worker.wait_ready()
    for name, (play, brokers) in LIFE.items():
        if broker in brokers:
            with subtests.test(name):
                worker.begin()
                play(worker)
    worker.begin()
    assert worker.stop() == 0
    assert not list((worker.directory / "run").glob("*.board")), "nothing is left behind"


def runs_tasks_once_each_in_loaded_children(worker: PoolWorker) -> None:
    worker.send("note", *([n] for n in range(40)))
    worker.wait_ran(40)
    assert worker.ran() == {str(n): 1 for n in range(40)}
    assert all(prepared for _, _, prepared in worker.trace())
    status = worker.wait("forty counted", lambda: _sum(worker, "requests") == 40 and worker.status())
    assert status["kind"] == "celery"
    assert status["findings"] == []


def _sum(worker: PoolWorker, what: str) -> int:
    return sum(slot[what] for slot in worker.status()["slots"])


FAULTS = {
    "memory": "MemoryError",
    "import": "ImportError",
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "os-exit": "exit",
    "kill": "SIGKILL",
    "segv": "SIGSEGV",
}
HANGING = ("hang", "hang-in-c")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_child_that_cannot_load_takes_no_task_and_is_tried_again(pool, broker, subtests):
    """One fault after another, and every load that hangs is ended with its stacks."""
    faults = {**dict.fromkeys(FAULTS, 3), **dict.fromkeys(HANGING, 1)}
    options = {
        "LOAD_TIMEOUT": LONG_ENOUGH,
        "LOAD_RETRY_DELAY": 0.2,
        "LOAD_RETRY_MAX_DELAY": 1,
        "LOAD_RETRIES": 40,  # more than all faults together
    }
    worker = pool(broker, faults=faults, options=options)
    with subtests.test("all faults at the start"):
        worker.send("note", *([n] for n in range(20)))
        worker.wait_ready()
        worker.wait_ran(20)
        assert worker.ran() == {str(n): 1 for n in range(20)}
        assert all(prepared for _, _, prepared in worker.trace())
        failed = Counter(event["type"] for event in worker.events("load-failed"))
        assert failed == {**dict.fromkeys(FAULTS.values(), 3), "load-timeout": 2}
        assert len(worker.events("back-off")) == failed.total()
        assert "pool_app.py" in worker.log
        assert worker.log.count("in fail") >= 2, "the stacks of both that hung"
    with subtests.test("a warm shutdown waits for the tasks in hand"):
        worker.begin()
        worker.send("note", *([n, 8.0] for n in range(4)))
        worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
        assert worker.stop() == 0
        assert worker.ran() == {str(n): 1 for n in range(4)}


def costs_next_to_nothing_with_a_slot_that_never_loads(worker: PoolWorker) -> None:
    worker.fault("init", "import")
    victim = worker.pids()[0]
    # what the victim has used until now counts once it is dead, and is no cost of the slot
    before, since = cpu_seconds(worker.pid) + cpu_seconds(victim), time.monotonic()
    os.kill(victim, signal.SIGKILL)
    worker.wait("four failures", lambda: len(worker.events("load-failed")) >= 4)
    share = (cpu_seconds(worker.pid) - before) / (time.monotonic() - since)
    print(f"a slot that never loads: {share:.2%} of a core")
    spawned, failed = worker.events("spawned"), worker.events("load-failed")
    assert len({event["slot"] for event in failed}) == 1
    for slot in {event["slot"] for event in failed}:
        starts = [event["at"] for event in spawned if event["slot"] == slot]
        waits = [event["seconds"] for event in worker.events("back-off") if event["slot"] == slot]
        ends = [event["at"] for event in failed if event["slot"] == slot]
        # the first start is the one after the kill
        for end, wait, start in zip(ends, waits, starts[1:], strict=False):
            assert start >= end + wait - 0.05, "one fork a back-off"
    longest = max(slot["next_try_in"] or 0 for slot in worker.status()["slots"])
    repaired = time.time()
    worker.repair()
    worker.wait_ready()
    healed = max(event["at"] for event in worker.events("ready")) - repaired
    print(f"healed {healed:.2f} s after the cause was gone; the longest wait was {longest:.2f} s")
    assert share < 0.03


def cpu_seconds(pid: int) -> float:
    """Return what a process and its dead children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def is_not_live_while_it_is_stopped(worker: PoolWorker) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        wait_not_live(worker)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    worker.wait("live again", lambda: worker.workerguard("probe", "live", "--celery").returncode == 0)


def wait_not_live(worker: PoolWorker) -> None:
    # the probe is a process of its own, so it is not asked before it can say no
    worker.wait("silence", lambda: worker.status()["arbiter"]["beat_age"] > LONGEST_SILENCE, 40)
    worker.wait("not live", lambda: worker.workerguard("probe", "live", "--celery").returncode == 69, 40)


def terminates_a_task_that_is_revoked(worker: PoolWorker) -> None:
    worker.send("note", [1, 3600.0])
    worker.wait("it is in hand", lambda: _sum(worker, "in_flight") == 1)
    active = json.loads(worker.ask("inspect", "active", "--json").stdout)
    ((task,),) = active.values()
    worker.run(*worker.command("control", "terminate", "SIGTERM", task["id"]))
    worker.wait("the child is replaced", lambda: task["worker_pid"] not in worker.pids())
    worker.wait_ready()
    assert worker.ran() == {}
    assert not worker.events("load-failed")


def is_asked_through_celerys_own_broker(worker: PoolWorker) -> None:
    before = set(worker.pids())
    (answer,) = json.loads(worker.ask("inspect", "guard", "--json").stdout).values()
    assert (answer["ready"], answer["target"]) == (4, 4)
    accepted = worker.ask("control", "guard_recycle", "2")
    assert "recycle of 2: accepted" in accepted.stdout
    worker.wait("slot 2 replaced", lambda: len(worker.events("ready")) == 1)
    worker.ask("control", "guard_recycle", "all")
    worker.wait("all replaced", lambda: len(worker.events("ready")) == 5 and not before & set(worker.pids()))
    assert fewest_there(worker.events(), before) == 3
    refused = worker.ask("control", "guard_recycle", "77")
    assert "there is no slot 77" in refused.stdout
    assert worker.workerguard("recycle", "1", "--celery", "--wait").returncode == 0
    assert len(worker.events("ready")) == 6, "done when the child that follows is ready"
    assert worker.workerguard("reload", "--celery").returncode == 65


def grows_and_shrinks_and_loses_nothing(worker: PoolWorker) -> None:
    worker.send("note", *([n, 0.05] for n in range(400)))
    worker.ask("control", "pool_grow", "2")
    worker.wait_ready(6)
    worker.ask("control", "pool_shrink", "4")
    worker.wait_ready(2)
    worker.wait_ran(400)
    assert worker.ran() == {str(n): 1 for n in range(400)}
    assert worker.status()["target"] == 2
    worker.ask("control", "pool_grow", "2")
    worker.wait_ready(4)


def has_an_idle_child_killed_that_stops_no_other(worker: PoolWorker) -> None:
    """Celery's own waits with the pipe's lock in hand, and takes it to its grave."""
    for _ in range(3):
        ready = len(worker.events("ready"))
        for pid in worker.pids()[:3]:
            os.kill(pid, signal.SIGKILL)
        worker.wait("successors", lambda ready=ready: len(worker.events("ready")) >= ready + 3)
        worker.wait_ready()
    worker.send("note", *([n] for n in range(20)))
    worker.wait_ran(20)


def does_a_job_again_that_a_killed_child_had_read_and_not_accepted(worker: PoolWorker) -> None:
    """Children share a queue, so no other process knows which job was meant for which child."""
    worker.fault("taken", "kill", 3)
    worker.send("note", *([n] for n in range(12)))
    worker.wait_ran(12)
    worker.wait_ready()
    assert worker.ran() == {str(n): 1 for n in range(12)}


BOTH = ("redis", "filesystem")
LIFE: dict[str, tuple[Callable[[PoolWorker], None], tuple[str, ...]]] = {  # with the brokers
    "it runs tasks once each, in loaded children": (
        runs_tasks_once_each_in_loaded_children,  # the first, because nothing else is counted before
        (*BOTH, "rabbitmq"),
    ),
    "a slot that never loads costs next to nothing": (
        costs_next_to_nothing_with_a_slot_that_never_loads,
        ("redis",),
    ),
    "it is asked through Celery's own broker": (is_asked_through_celerys_own_broker, BOTH),
    "a task that is revoked is terminated": (terminates_a_task_that_is_revoked, BOTH),
    "its main process is stopped": (is_not_live_while_it_is_stopped, BOTH),
    "it grows and shrinks": (grows_and_shrinks_and_loses_nothing, ("redis",)),
    "an idle child is killed": (has_an_idle_child_killed_that_stops_no_other, ("filesystem",)),
    "a child is killed that has read a job": (
        does_a_job_again_that_a_killed_child_had_read_and_not_accepted,
        ("filesystem",),
    ),
}


def test_a_slow_load_is_waited_for_at_boot_and_later(pool):
    """Celery's own time-out for a child that comes up later, 4 s, would kill it for ever."""
    worker = pool("filesystem", concurrency=1, fault=("init", "slow", 2))
    worker.wait_ready()
    os.kill(worker.pids()[0], signal.SIGKILL)
    worker.wait("the second load", lambda: len(worker.events("ready")) == 2)
    assert worker.events("load-failed") == []


# the figures


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", [*BROKERS, RABBITMQ])
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
    # the other children may have done all of them before a replacement has tried to load
    worker.wait("three failed loads", lambda: len(worker.events("load-failed")) >= 3)
    worker.wait_ready()
    assert len(worker.events("load-failed")) == 3
    assert all(prepared for _, _, prepared in worker.trace()), "no task in a child that was not prepared"
    twice = {number for number, count in worker.ran().items() if count > 1}
    assert len(twice) <= 2, "only what the killed had in hand"
    assert " raised " not in worker.log or "WorkerLostError" in worker.log


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("broker", "late"),
    [  # early and late acknowledgement, both pools, every broker
        pytest.param("redis", False, marks=pytest.mark.needs("redis")),
        pytest.param("redis", True, marks=pytest.mark.needs("redis")),
        ("filesystem", False),
        pytest.param("rabbitmq", True, marks=pytest.mark.needs("rabbitmq")),
    ],
)
def test_2000_tasks_while_every_child_is_recycled(pool, broker, late):
    worker = pool(
        broker,
        arguments=("-l", "warning"),  # two lines for each task are not needed
        celery={"CELERY_TASK_ACKS_LATE": late, "CELERY_WORKER_PREFETCH_MULTIPLIER": 4},
        options={"MAX_WORKER_LIFETIME": "2s", "MIN_WORKER_LIFETIME": 0},
    )
    worker.wait_each_ready()
    worker.send("note", *([n, 0.04] for n in range(2000)))
    worker.wait_ran(2000, 100)
    recycled = Counter(event["slot"] for event in worker.events("retiring"))
    assert min(recycled[slot] for slot in range(1, 5)) >= 3
    assert worker.ran() == {str(n): 1 for n in range(2000)}, "none lost, none twice"
    assert fewest_there(worker.events()) >= 3, "never more than one away"
    assert worker.events("killed") + worker.events("aborted") == []


def fewest_there(events: list[dict[str, Any]], before: Collection[int] = ()) -> int:
    """Return the least number of children that were there, from the time when all were, out of the journal."""
    there = set(before)
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


# the end


@pytest.mark.parametrize("broker", BROKERS)
def test_warm_shutdown_in_a_storm_is_bounded(pool, broker):
    """Celery's own hung there: for a child that waits to be read, or for a lock that a dead child holds."""
    worker = pool(
        broker,
        celery={"CELERY_WORKER_MAX_TASKS_PER_CHILD": 20, "CELERY_TASK_ACKS_LATE": True},
        options={"LOAD_RETRY_DELAY": 0.2, "MAX_WORKER_LIFETIME": 2, "MIN_WORKER_LIFETIME": 0},
    )
    worker.wait_each_ready()
    worker.fault("init", "memory", 50)
    worker.send("failing", *([n] for n in range(3000)))
    dice = random.Random(4)
    until = time.monotonic() + 4
    while time.monotonic() < until:
        there = worker.pids()  # once: it changes all the time
        for pid in dice.sample(there, min(1, len(there))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, dice.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)))
        time.sleep(0.1)
    began = time.monotonic()
    assert worker.stop(timeout=25) == 0
    print(f"{broker}: ended {time.monotonic() - began:.1f} s after SIGTERM, {len(worker.trace())} tasks done")
    assert all(prepared for _, _, prepared in worker.trace())


@pytest.mark.parametrize("broker", BROKERS)
def test_warm_shutdown_while_nobody_can_load(pool, broker):
    worker = pool(broker, fault=("init", "hang"), options={"LOAD_TIMEOUT": 0})
    worker.send("note", *([n] for n in range(40)))
    worker.wait(
        "loads under way", lambda: [slot["step"] for slot in worker.status()["slots"]].count("init") >= 2
    )
    assert worker.stop(timeout=20) == 0
    assert worker.trace() == []


def test_cold_shutdown_ends_the_tasks_in_hand_too(pool):
    worker = pool("filesystem")
    worker.wait_ready()
    worker.send("note", *([n, 600.0] for n in range(6)))
    worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
    os.kill(worker.pid, signal.SIGQUIT)
    worker.wait_exit()
    assert worker.trace() == []
    assert "Traceback" not in worker.log


# what is asked of it, and what it says


def test_status_shows_the_pool_and_the_probes_ask_it_and_a_cold_shutdown_leaves_nothing_behind(pool):
    worker = pool("filesystem", fault=("init", "memory", 1), options={"LOAD_RETRY_DELAY": 0.2})
    worker.wait_ready()
    worker.send("failing", [1])
    worker.wait("the failure counted", lambda: _sum(worker, "errors_5xx") == 1)
    shown = worker.workerguard("status")
    assert "TASKS" in shown.stdout
    assert "celery prefork at pool@" in shown.stdout
    document = json.loads(worker.workerguard("status", "--json").stdout)
    assert document["pools"][0]["ready"] == 4
    for kind in ("live", "ready", "startup"):
        probed = worker.workerguard("probe", kind, "--celery")
        assert (probed.returncode, probed.stdout[:3]) == (0, "ok:")
    assert worker.workerguard("probe", "ready").returncode == NO_SERVER, (
        "the web's probe does not take a pool for it"
    )
    slot = str(worker.events("load-failed")[0]["slot"])
    explained = worker.workerguard("explain", slot, "--celery")
    assert "load-failed" in explained.stdout
    assert "MemoryError" in explained.stdout
    assert worker.workerguard("explain").stdout.endswith("no findings\n"), (
        "of the pool, as there is no server"
    )

    worker.begin()
    os.kill(worker.pid, signal.SIGQUIT)
    worker.wait_exit()
    assert not list((worker.directory / "run").glob("*.board"))
    assert "Traceback" not in worker.log


NO_SERVER = 72


@pytest.mark.parametrize("broker", BROKERS)
def test_a_main_process_that_is_stuck_is_not_live(pool, broker):
    worker = pool(broker)
    worker.wait_ready()
    os.kill(worker.pid, signal.SIGUSR2)
    wait_not_live(worker)


def beat(worker: Any) -> float:
    """When the pool's arbiter ticked last, in Unix time."""
    status = worker.status()
    return float(status["at"] - status["arbiter"]["beat_age"])


@pytest.mark.needs("redis")
def test_a_broker_that_is_away_is_no_reason_to_restart_and_children_are_looked_after(pool, tmp_path):
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server(tmp_path))
        worker = pool("redis", url=url)
        worker.wait_ready()
        stack.close()
        worker.wait("the broker missed", lambda: "Connection refused" in worker.log)
        os.kill(worker.pids()[0], signal.SIGKILL)
        worker.wait("its successor", lambda: len(worker.events("ready")) == 5)
        first = beat(worker)
        worker.wait("three seconds of its pulse", lambda: beat(worker) > first + 3)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_sigterm_to_every_process_of_the_group_loses_no_task(pool, broker):
    worker = pool(broker)
    worker.wait_ready()
    worker.send("note", *([n, 8.0] for n in range(4)))
    worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
    for pid in (*worker.pids(), worker.pid):
        os.kill(pid, signal.SIGTERM)
    assert worker.wait_exit() == 0
    assert worker.ran() == {str(n): 1 for n in range(4)}


@pytest.mark.needs("redis")
def test_signals_for_a_main_process_cost_no_child_and_no_task(pool):
    """A closed terminal and a key of job control reach each process of a group."""
    worker = pool("redis")
    worker.wait_ready()
    before = worker.pids()
    worker.send("note", *([n, 4.0] for n in range(4)))
    worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
    for number in {*FOR_ARBITER} - {signal.SIGUSR2}:  # the project of this test handles SIGUSR2 itself
        for pid in before:
            os.kill(pid, number)
    worker.wait("all done", lambda: worker.ran() == {str(n): 1 for n in range(4)})
    assert worker.pids() == before


# need-app


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("need_app", ["worker", "server"])
def test_need_app_ends_a_worker_that_cannot_load_with_22(pool, broker, need_app):
    options = {"LOAD_RETRY_DELAY": 0.1, "LOAD_RETRIES": 2, "NEED_APP": need_app}
    worker = pool(broker, concurrency=2, fault=("init", "import"), options=options)
    worker.send("note", [1])
    assert worker.wait_exit() == 22
    assert f"need-app={need_app}" in worker.log
    assert worker.trace() == []


@pytest.mark.needs("redis")
def test_need_app_off_keeps_the_unloaded_child_without_a_task_until_its_lifetime_ends(pool):
    options = {
        "LOAD_RETRY_DELAY": 0.1,
        "LOAD_RETRIES": 1,
        "NEED_APP": "off",
        "MAX_WORKER_LIFETIME": 5,
        "MIN_WORKER_LIFETIME": 0,
    }
    worker = pool("redis", concurrency=2, fault=("init", "import", 1), options=options)
    status = worker.wait(
        "one unloaded",
        lambda: "unloaded" in [slot["state"] for slot in worker.status()["slots"]] and worker.status(),
    )
    assert "unloaded" in {finding["code"] for finding in status["findings"]}
    worker.send("note", *([n] for n in range(20)))
    worker.wait_ran(20)
    assert all(prepared for _, _, prepared in worker.trace())
    worker.wait("both loaded", lambda: worker.status()["ready"] == 2, 30)


# recycling


@pytest.mark.timeout(240)
@pytest.mark.parametrize("broker", BROKERS)
def test_limits_of_memory_and_of_mercy(pool, broker, subtests):
    """Celery's max_memory_per_child looks at the peak; taken over, it looks at what there is now."""
    worker = pool(
        broker,
        celery={"CELERY_WORKER_MAX_MEMORY_PER_CHILD": 200_000},
        options={"MIN_WORKER_LIFETIME": 0, "WORKER_RELOAD_MERCY": 1},
    )
    worker.wait_ready()
    with subtests.test("memory that was given back recycles no child, and kept memory does"):
        for ran in range(1, 5):  # one by one and quickly, so that no child is large in three samples in a row
            worker.send("swell", [250])
            worker.wait_ran(ran)
            worker.wait(
                "it was given back", lambda: max(s["rss_bytes"] for s in worker.status()["slots"]) < 195 << 20
            )
        assert worker.events("retiring") == []
        worker.send("note", [1, 0, 300])
        worker.wait("a recycle", lambda: worker.events("retiring"))
        assert worker.events("retiring")[0]["rule"] == "reload-on-rss"
        worker.wait("its successor", lambda: len(worker.events("ready")) == 5)
    with subtests.test("mercy bounds the tasks too if it is set"):
        worker.begin()
        worker.send("note", *([n, 600.0] for n in range(4)))
        worker.wait("four in hand", lambda: _sum(worker, "in_flight") == 4)
        worker.stop(timeout=20)
        assert worker.trace() == []


@pytest.mark.needs("redis")
def test_what_celery_ends_by_itself_is_no_crash(pool):
    celery = {"CELERY_WORKER_MAX_TASKS_PER_CHILD": 1, "CELERY_TASK_TIME_LIMIT": 6}
    worker = pool("redis", concurrency=1, celery=celery)
    worker.wait_ready()
    worker.send("note", *([n] for n in range(6)))
    worker.wait_ran(6)
    worker.send("note", [6, 60.0])
    worker.wait("the time limit", lambda: [e for e in worker.events("retiring") if e["rule"] == "time-limit"])
    worker.send("note", *([n] for n in range(7, 12)))
    worker.wait_ran(11)
    assert worker.events("back-off") == []
    reasons = {event["rule"] for event in worker.events("retiring")}
    assert reasons == {"max-tasks-per-child", "time-limit"}


# bad input


@pytest.mark.parametrize("other", ["solo", "threads", "gevent"])
def test_a_pool_that_is_not_prefork_is_told_of_once(pool, other):
    worker = pool("filesystem", arguments=("-P", other))
    worker.wait("it is up", lambda: " ready." in worker.log)
    assert worker.log.count("workerguard guards Celery's prefork pool") == 1
    assert "the pool of this worker is " + {"threads": "thread"}.get(other, other) in worker.log
    worker.send("note", [1])
    worker.wait_ran(1)


@pytest.mark.needs("redis")
def test_the_setting_alone_guards_too(pool):
    setting = {"CELERY_WORKER_POOL": "django_workerguard.contrib.celery.prefork:TaskPool"}
    worker = pool("redis", guarded=False, celery=setting)
    worker.wait_ready()


BAD_INPUT = [
    ({"LOAD_TIMOUT": 3}, {}, "Did you mean 'LOAD_TIMEOUT'?"),
    ({"LOAD_TIMEOUT": "soon"}, {}, "load-timeout: 'soon' is not a duration"),
    ({"MAX_REQUESTS": 3}, {}, "'MAX_REQUESTS' is not an option of the pool"),
    ({"RUN_DIR": "/proc/nowhere"}, {}, "run-dir: "),
]
if "pool_start_method" in NAMESPACES["worker"]:  # from Celery 5.7 on
    BAD_INPUT.append(
        ({}, {"CELERY_WORKER_POOL_START_METHOD": "spawn"}, "worker_pool_start_method: "),
    )


@pytest.mark.parametrize(("options", "celery", "said"), BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(pool, options, celery, said):
    environ = {"WORKERGUARD_RUN_DIR": ""} if "RUN_DIR" in options else {}
    worker = pool("filesystem", options=options, celery=celery, environ=environ)
    assert worker.wait_exit() == 2
    (line,) = [line for line in worker.log.splitlines() if line.startswith("Error: ")]
    assert said in line
    assert "Traceback" not in worker.log


@pytest.mark.parametrize("package", ["celery", "billiard"])
def test_an_unsupported_version_is_refused(pool, tmp_path, package):
    about = tmp_path / "elsewhere" / f"{package}-9.9.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.9.9\n")
    path = os.pathsep.join(map(str, (about.parent, *PATH)))
    worker = pool("filesystem", environ={"PYTHONPATH": path})
    assert worker.wait_exit() == 2
    assert f"{package} 9.9.9 (supported: " in worker.log
    assert "Traceback" not in worker.log
