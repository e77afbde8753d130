"""The promises of the guard under uWSGI, over random histories, with a clock that is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_workerguard.contrib.uwsgi.zombies import (
    Decision,
    Limits,
    Record,
    Sibling,
    State,
    decide,
    note_end,
    turn,
)
from django_workerguard.policy.backoff import back_off, load_timeout
from django_workerguard.policy.reason import Rule

pytestmark = pytest.mark.timeout(600)  # many examples, on a machine that may be busy

LIMITS = Limits(load_timeout=60.0, load_retry_delay=1.0, load_retry_max_delay=8.0)
limits_of_servers = st.builds(
    Limits,
    load_timeout=st.sampled_from([0.0, 5.0, 60.0]),
    load_retry_delay=st.sampled_from([0.0, 0.5, 2.0]),
    load_retry_max_delay=st.floats(2, 30),
    seed=st.floats(0, 1, exclude_max=True),
)


def sibling(number: int, **fields: object) -> Sibling:
    values = {"id": number, "pid": 100 + number, "start": 7, "loaded": False, **fields}
    return Sibling(**values)  # type: ignore[arg-type]


LOADED = sibling(1, loaded=True)
ZOMBIE = sibling(2, requests=3)


def test_a_worker_that_has_answered_without_an_application_is_ended():
    decision = decide([LOADED, ZOMBIE], {}, 1000.0, me=1, limits=LIMITS)
    assert decision.end == ZOMBIE
    assert decision.states == {1: State.READY, 2: State.UNLOADED}
    assert decision.reasons[2].rule is Rule.FAILED_LOAD


def test_a_worker_that_may_still_load_is_not_ended_before_load_timeout():
    loading = sibling(2)
    memory = decide([LOADED, loading], {}, 1000.0, me=1, limits=LIMITS).memory
    before = decide([LOADED, loading], memory, 1059.9, me=1, limits=LIMITS)
    assert (before.end, before.states[2]) == (None, State.LOADING)
    after = decide([LOADED, loading], before.memory, 1060.0, me=1, limits=LIMITS)
    assert after.end == loading
    assert after.reasons[2].rule is Rule.LOAD_TIMEOUT


def test_a_slow_load_gets_more_time_after_it_was_ended():
    loading = sibling(2)
    memory = {2: Record(identity=loading.identity, since=1000.0, failures=1, ended=900.0)}
    assert decide([LOADED, loading], memory, 1119.0, me=1, limits=LIMITS).end is None
    assert decide([LOADED, loading], memory, 1120.0, me=1, limits=LIMITS).end == loading


def test_without_load_timeout_only_requests_tell():
    memory = decide([LOADED, sibling(2)], {}, 0.0, me=1, limits=replace(LIMITS, load_timeout=0.0)).memory
    limits = replace(LIMITS, load_timeout=0.0)
    assert decide([LOADED, sibling(2)], memory, 1e6, me=1, limits=limits).end is None
    assert decide([LOADED, ZOMBIE], memory, 1e6, me=1, limits=limits).end == ZOMBIE


def test_a_worker_that_never_gets_a_request_holds_up_the_others_for_two_loads_only():
    limits = LIMITS
    other = sibling(3, requests=1)
    slowest = replace(LOADED, load_seconds=4)
    decision = decide([slowest, ZOMBIE, other], {}, 1000.0, me=1, limits=limits)
    assert decision.end is not None
    memory = note_end(decision.memory, decision.end, 1000.0, limits=limits)
    successor = sibling(2, pid=999)
    seen = [slowest, successor, other]
    assert turn(seen, limits) == 10.0
    decision = decide(seen, memory, 1001.0, me=1, limits=limits)
    assert decision.end is None
    decision = decide(seen, decision.memory, 1009.9, me=1, limits=limits)
    assert decision.end is None
    assert decide(seen, decision.memory, 1010.0, me=1, limits=limits).end == other


@pytest.mark.parametrize("successor", [{"loaded": True}, {"requests": 1}])
def test_the_next_is_ended_once_the_last_is_loaded_or_known_to_be_unloaded_again(successor):
    other = sibling(3, requests=1)
    memory = note_end(
        decide([LOADED, ZOMBIE, other], {}, 1000.0, me=1, limits=LIMITS).memory, ZOMBIE, 1000.0, limits=LIMITS
    )
    assert (
        decide([LOADED, ZOMBIE, other], memory, 1000.5, me=1, limits=LIMITS).end is None
    )  # it is not gone yet
    loading = decide([LOADED, sibling(2, pid=999), other], memory, 1001.0, me=1, limits=LIMITS)
    assert loading.end is None
    seen = [LOADED, sibling(2, pid=999, **successor), other]
    assert decide(seen, loading.memory, 1001.5, me=1, limits=LIMITS).end == other


def test_a_worker_that_cheaper_has_stopped_holds_up_nothing():
    other = sibling(3, requests=1)
    memory = note_end(
        decide([LOADED, ZOMBIE, other], {}, 1000.0, me=1, limits=LIMITS).memory, ZOMBIE, 1000.0, limits=LIMITS
    )
    seen = [LOADED, sibling(2, pid=0, start=0, cheap=True), other]
    decision = decide(seen, memory, 1000.5, me=1, limits=LIMITS)
    assert (decision.end, decision.states[2]) == (other, State.EMPTY)


@settings(max_examples=200, deadline=None)
@given(limits_of_servers, st.lists(st.floats(0.01, 3.0), min_size=2, max_size=40))
def test_a_worker_that_fails_at_once_waits_for_its_back_off_each_time(limits, waits):
    memory, zombie, now, ends = {}, ZOMBIE, 1000.0, []
    for wait in waits:
        now += wait
        decision = decide([LOADED, zombie], memory, now, me=1, limits=limits)
        memory = decision.memory
        due = not ends or now >= memory[2].next_end
        assert (decision.end is not None) == due
        if decision.end is not None:
            memory = note_end(memory, zombie, now, limits=limits)
            assert memory[2].next_end > now or not limits.load_retry_delay
            ends.append(now)
            zombie = sibling(2, pid=zombie.pid + 1, requests=1)
            now += 0.01
            memory = decide([LOADED, zombie], memory, now, me=1, limits=limits).memory
    assert memory[2].failures == len(ends)
    loaded = decide([LOADED, sibling(2, pid=1, loaded=True)], memory, now, me=1, limits=limits).memory[2]
    assert (loaded.failures, loaded.next_end) == (0, 0.0)


# a uWSGI whose loads fail at random: a step is a second of its master, and a look


@dataclass
class Process:
    pid: int
    fails: bool
    loads_at: float
    requests: int = 0

    def loaded(self, now: float) -> bool:
        return not self.fails and now >= self.loads_at


@dataclass
class History:
    limits: Limits
    me: int
    processes: dict[int, Process]
    memory: dict[int, Record] = field(default_factory=dict)
    now: float = 1000.0
    pids: int = 1000
    ends: list[tuple[float, Sibling, Decision]] = field(default_factory=list)

    def seen(self) -> list[Sibling]:
        return [
            Sibling(
                id=number,
                pid=process.pid,
                start=process.pid,
                loaded=process.loaded(self.now),
                requests=process.requests,
                cheap=process.pid == 0,
            )
            for number, process in self.processes.items()
        ]

    def spawn(self, number: int, fails: bool, takes: float) -> None:
        self.pids += 1
        self.processes[number] = Process(self.pids, fails, self.now + takes)

    def look(self, fails: bool, takes: float) -> Decision:
        decision = decide(self.seen(), self.memory, self.now, me=self.me, limits=self.limits)
        self.memory = dict(decision.memory)
        if decision.end is not None:
            self.memory = note_end(self.memory, decision.end, self.now, limits=self.limits)
            self.ends.append((self.now, decision.end, decision))
            self.spawn(decision.end.id, fails, takes)
        return decision


steps = st.lists(
    st.tuples(
        st.sampled_from(["look", "request", "kill", "cheap", "look", "request"]),
        st.integers(1, 5),  # whose
        st.booleans(),  # whether the next load fails
        st.floats(0.0, 8.0),  # how long it takes
        st.floats(0.05, 20.0),  # until then
    ),
    max_size=60,
)


def run(limits: Limits, me: int, script: list) -> History:
    history = History(limits, me, {})
    for number in range(1, 6):
        history.spawn(number, False, 0.0)
    for what, number, fails, takes, wait in script:
        history.now += wait
        process = history.processes[number]
        match what:
            case "kill":
                history.spawn(number, fails, takes)
            case "cheap":
                history.processes[number] = Process(0, True, history.now)
            case "request" if process.pid and (process.fails and history.now >= process.loads_at):
                process.requests += 1
            case "request" if process.loaded(history.now):
                process.requests += 1
            case "look":
                before = dict(history.processes)
                decision = history.look(fails, takes)
                check_end(history, decision, before)
    return history


def check_end(history: History, decision: Decision, before: dict[int, Process]) -> None:
    """The promises of one decision."""
    end, now = decision.end, history.now
    asking = before[history.me]
    if end is None:
        return
    assert asking.pid
    assert asking.loaded(now), "only a loaded worker acts"
    assert end.id != history.me
    process = before[end.id]
    assert process.pid
    assert not process.loaded(now), "a loaded worker is never chosen"
    record = decision.memory[end.id]
    patience = load_timeout(history.limits.load_timeout, record.failures)
    assert process.requests > 0 or 0 < patience <= now - record.since, "it may still load"
    assert record.next_end <= now, "the back-off is kept"
    assert sum(state is State.UNLOADED for state in decision.states.values()) >= 1


@settings(max_examples=300, deadline=None)
@given(limits_of_servers, st.integers(1, 5), steps)
def test_every_decision_keeps_its_promises(limits, me, script):
    run(limits, me, script)


@settings(max_examples=300, deadline=None)
@given(limits_of_servers, steps)
def test_one_at_a_time(limits, script):
    history = run(limits, 1, script)
    for (at, last, _), (later, _, decision) in zip(history.ends, history.ends[1:], strict=False):
        record = decision.memory[last.id]
        seen = [sibling(number) for number in decision.states]
        assert (
            later - at >= turn(seen, limits)
            or decision.states[last.id] is State.EMPTY  # cheaper has stopped it
            or (record.since > at and decision.states[last.id] in (State.READY, State.UNLOADED))
        )


@settings(max_examples=300, deadline=None)
@given(limits_of_servers, steps)
def test_the_back_off_of_an_id_grows_until_it_has_loaded(limits, script):
    history = run(limits, 1, script)
    latest: dict[int, tuple[float, int]] = {}
    for at, zombie, decision in history.ends:
        failures = decision.memory[zombie.id].failures
        before, count = latest.get(zombie.id, (0.0, -1))
        assert failures in (0, count + 1)
        if failures:
            wait = back_off(
                failures,
                slot=zombie.id,
                first=limits.load_retry_delay,
                longest=limits.load_retry_max_delay,
                transient=True,
                seed=limits.seed,
            )
            assert at - before >= wait - 1e-6
        latest[zombie.id] = (at, failures)


@settings(max_examples=200, deadline=None)
@given(limits_of_servers, st.integers(2, 5))
def test_when_the_cause_is_gone_every_worker_with_requests_is_loaded_again(limits, unloaded):
    history = History(limits, 1, {})
    history.spawn(1, False, 0.0)
    for number in range(2, unloaded + 1):
        history.spawn(number, True, 0.0)
        history.processes[number].requests = 1
    for _ in range(200):
        history.look(False, 0.5)
        history.now += 1.0
    assert all(process.loaded(history.now) for process in history.processes.values())
    assert len(history.ends) == unloaded - 1
