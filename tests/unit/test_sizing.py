"""workers=auto: how many workers fit the CPUs and the memory."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.policy.sizing import by_cpus, choose
from django_workerguard.policy.view import Fleet, Policy, State, Worker
from django_workerguard.server.auto_workers import AutoWorkers

MB = 1 << 20
POLICY = Policy(memory_margin=16 * MB, surge=1)
MEASURED = Fleet(target=1, sizes={"load": (1, (60 * MB,))}, free=10_000 * MB)


@pytest.mark.parametrize(
    ("cpus", "event_loop", "workers"), [(1, True, 2), (1, False, 2), (4, True, 4), (4, False, 8)]
)
def test_the_cpus_alone(cpus, event_loop, workers):
    assert by_cpus(cpus, event_loop=event_loop) == workers
    chosen = choose(POLICY, MEASURED, cpus, event_loop=event_loop, most=16)
    assert chosen.workers == workers


@pytest.mark.parametrize(
    ("free", "workers"),
    [(0, 1), (90, 1), (16 + 60 + 3 * 90, 3), (16 + 60 + 4 * 90 - 1, 3), (5000, 8), (None, 8)],
)
def test_the_memory_that_is_left(free, workers):
    fleet = replace(MEASURED, free=None if free is None else free * MB)
    chosen = choose(POLICY, fleet, 4, event_loop=False, most=16)
    assert chosen.workers == workers
    assert chosen.reasoning.startswith("4 CPUs can keep 8 workers busy; ")


def test_a_forked_worker_may_come_to_own_what_it_shares():
    fleet = replace(MEASURED, sizes={"fork": (1, (4 * MB,)), "mold": (1, (100 * MB,))}, free=220 * MB)
    assert choose(POLICY, fleet, 8, event_loop=False, most=16).workers == 4


def grown(sizes: dict, free: int, *rss: int) -> Fleet:
    """A fleet of ready workers that had 40 MB each when they were ready."""
    workers = {
        seat: Worker(
            seat=seat,
            slot=seat,
            pid=seat,
            generation=1,
            ordinal=1,
            spawned=0.0,
            load_timeout=60.0,
            state=State.READY,
            rss_at_first=40 * MB,
            rss=size * MB,
        )
        for seat, size in enumerate(rss, 1)
    }
    return replace(MEASURED, target=len(rss), sizes=sizes, free=free * MB, workers=workers)


@pytest.mark.parametrize("kind", ["load", "fork"])
def test_workers_that_have_grown_keep_their_place_when_there_is_more_memory(kind):
    sizes = {kind: (1, (20 * MB,))}
    assert choose(POLICY, grown(sizes, 10, 120, 120, 120, 120), 2, event_loop=False, most=16).workers == 3
    assert choose(POLICY, grown(sizes, 90, 120, 120, 120, 120), 2, event_loop=False, most=16).workers == 4
    # each keeps 100 MB: the 20 of its load and the 80 by which it has grown
    assert choose(POLICY, grown(sizes, 236, 120, 120, 120, 120), 8, event_loop=False, most=16).workers == 6


@given(
    st.integers(1, 64),
    st.lists(st.integers(40, 4000), min_size=1, max_size=16),
    st.integers(0, 10_000),
    st.integers(1, 1000),
)
def test_with_room_for_one_more_worker_no_number_that_the_cpus_can_use_becomes_smaller(cpus, rss, size, room):
    """Whatever the workers have grown to: the memory that is left has room for a successor and the margin."""
    fleet = grown({"load": (1, (size * MB,))}, size + 16 + room, *rss)
    kept = [size + one - 40 for one in rss]
    chosen = choose(POLICY, fleet, cpus, event_loop=True, most=64)
    if sum(kept) / len(kept) >= 1.5 * size:
        assert chosen.workers >= min(len(rss), by_cpus(cpus, event_loop=True))


@pytest.mark.parametrize("changes", [{"generation": 2}, {"reloading": True}, {"sizes": {}}])
def test_nothing_is_chosen_before_the_newest_generation_is_measured(changes):
    assert choose(POLICY, replace(MEASURED, **changes), 4, event_loop=False, most=16) is None


@given(
    st.integers(1, 512),
    st.none() | st.integers(0, 1 << 45),
    st.integers(1, 1 << 40),
    st.tuples(st.integers(1, 8), st.integers(8, 512)),
    st.booleans(),
)
def test_it_stays_within_its_bounds(cpus, free, size, bounds, event_loop):
    quorum, most = bounds
    fleet = replace(MEASURED, free=free, sizes={"load": (1, (size,))})
    chosen = choose(replace(POLICY, min_loaded=quorum), fleet, cpus, event_loop=event_loop, most=most)
    assert quorum <= chosen.workers <= most


def test_it_chooses_again_for_a_new_limit_and_not_for_the_use_of_a_neighbour(monkeypatch):
    monkeypatch.setattr("django_workerguard.server.auto_workers.cgroup.cpus", lambda: 2)
    tracker = SimpleNamespace(
        fleet=MEASURED,
        policy=POLICY,
        board=SimpleNamespace(layout=SimpleNamespace(slots=16, seats=40)),
        memory_limits=(80 * MB, 900 * MB),
    )
    asked: list[int] = []
    auto = AutoWorkers(tracker, scale=lambda number, by, by_hand: asked.append(number))

    def look(now: float, **changes: object) -> list[int]:
        vars(tracker).update(changes)
        asked.clear()
        auto.look(now, lambda *line: None, event_loop=False)
        return asked

    assert look(0.0) == [4]
    operator = replace(MEASURED, target=2)
    assert look(10.0, fleet=operator) == []
    assert look(20.0, fleet=replace(operator, free=400 * MB)) == [], "a neighbour uses more of the parent"
    assert look(30.0, memory_limits=(80 * MB, 500 * MB)) == [3]
