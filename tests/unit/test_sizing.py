"""workers=auto: how many workers fit the CPUs and the memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.policy.sizing import by_cpus, choose
from django_workerguard.policy.view import Fleet, Policy

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
