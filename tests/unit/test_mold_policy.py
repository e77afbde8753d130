"""Single decisions about the mold."""

from __future__ import annotations

import pytest

from django_workerguard.errors import ExitCode
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.mold import FORK_TIMEOUT, PATIENCE
from django_workerguard.policy.plan import next_deadline, plan
from django_workerguard.policy.reason import Rule
from django_workerguard.policy.view import Fleet, Policy, State
from tests.unit.fleets import Start, told

POLICY = Policy(load="mold", load_concurrency=2, stand_in=False, timeout=0.0)
AUTO = Policy(load="auto", load_concurrency=2, stand_in=False, timeout=0.0)
MOLD, NEXT_MOLD = 50, 51  # seats


def with_mold(target: int = 2, state: State = State.READY, *, policy: Policy = POLICY) -> Fleet:
    fleet = told(Fleet(target=target), m.MoldSpawned(MOLD, 500, 1, 60.0, 0.0), policy=policy)
    return told(fleet, m.Observed((m.Reading(MOLD, state, 0),), 1.0), policy=policy)


def served(target: int = 2, *, policy: Policy = POLICY) -> Fleet:
    """A fleet whose workers were forked from a mold and are ready."""
    fleet = with_mold(target, policy=policy)
    for slot in range(1, target + 1):
        fleet = told(fleet, Start(slot, slot, 100 + slot, 60.0, 1.0, mold=MOLD), policy=policy)
        fleet = told(fleet, m.Observed((m.Reading(slot, State.READY, 1),), 1.0), policy=policy)
    return fleet


def test_the_mold_is_loaded_first_and_every_worker_is_forked_from_it():
    assert plan(POLICY, Fleet(target=3), 0.0) == (a.SpawnMold(1, 60.0),)
    assert plan(POLICY, with_mold(3, State.LOADING), 0.5) == ()
    spawns = plan(POLICY, with_mold(3), 1.0)
    assert spawns == tuple(a.Spawn(slot, 1, 60.0, mold=MOLD) for slot in (1, 2))


def test_a_worker_of_the_old_mold_stays_while_the_new_generation_cannot_load():
    """It is not superseded: no worker of the new generation could take its place."""
    fleet = told(served(), m.GenerationStarted(20.0), m.Exited(1, 20.0), policy=POLICY)
    assert a.SpawnMold(2, 60.0) in plan(POLICY, fleet, 20.0)
    fleet = told(
        fleet, m.MoldSpawned(NEXT_MOLD, 501, 2, 60.0, 20.0), m.Exited(NEXT_MOLD, 21.0, transient=False)
    )
    (spawn,) = (one for one in plan(POLICY, fleet, 21.0) if isinstance(one, a.Spawn))
    assert (spawn.generation, spawn.mold) == (1, MOLD)
    fleet = told(fleet, m.Spawning(1, 9, 1, 60.0, 21.0, mold=MOLD), m.Spawned(9, 900, 21.0), policy=POLICY)
    fleet = told(fleet, m.Observed((m.Reading(9, State.LOADED, 1),), 21.1), policy=POLICY)
    assert plan(POLICY, fleet, 21.1) == (a.Admit(9),)
    assert fleet.frozen


def test_a_reload_rolls_once_the_new_mold_is_ready_and_the_old_one_leaves_after_the_first_worker():
    fleet = told(served(), m.GenerationStarted(20.0), m.MoldSpawned(NEXT_MOLD, 501, 2, 60.0, 20.0))
    assert plan(POLICY, fleet, 20.5) == ()
    fleet = told(fleet, m.Observed((m.Reading(NEXT_MOLD, State.READY, 0),), 21.0))
    (spawn,) = plan(POLICY, fleet, 21.0)
    assert (spawn.generation, spawn.mold, spawn.reason.rule) == (2, NEXT_MOLD, Rule.RELOAD)

    asked = m.Spawning(spawn.slot, 9, 2, 60.0, 21.0, spawn.reason, NEXT_MOLD)
    coming = told(fleet, asked, m.Spawned(9, 900, 21.0), policy=POLICY)
    proven = told(
        coming, m.Observed((m.Reading(9, State.LOADED, 0),), 21.5), m.Admitted(9, 21.5), policy=POLICY
    )
    proven = told(proven, m.Observed((m.Reading(9, State.READY, 1),), 21.5), policy=POLICY)
    retired = [one for one in plan(POLICY, proven, 21.5) if isinstance(one, a.Retire) and one.seat == MOLD]
    assert [one.reason.rule for one in retired] == [Rule.NEWER_MOLD]

    failed = told(coming, m.Exited(9, 21.5, transient=False), m.Exited(1, 21.5), policy=POLICY)
    assert failed.frozen
    (spawn,) = plan(POLICY, failed, 21.6)
    assert (spawn.slot, spawn.generation, spawn.mold) == (1, 1, MOLD), "the old mold has the code that serves"


def test_without_a_surge_a_reload_waits_for_its_mold_and_one_worker_at_a_time_tries_it():
    policy = Policy(load="mold", load_concurrency=2, stand_in=False, timeout=0.0, surge=0, away=3)
    fleet = told(
        served(3, policy=policy), m.GenerationStarted(20.0), m.MoldSpawned(NEXT_MOLD, 501, 2, 60.0, 20.0)
    )
    assert plan(policy, fleet, 20.5) == (), "no worker leaves for a mold that still loads"

    # the first load of the new mold fails, and the next one does not
    fleet = told(fleet, m.Exited(NEXT_MOLD, 21.0, transient=True), policy=policy)
    again = max(fleet.canary_next_try, fleet.mold_record.next_try)
    fleet = told(fleet, m.MoldSpawned(NEXT_MOLD, 502, 2, 60.0, again), policy=policy)
    fleet = told(fleet, m.Observed((m.Reading(NEXT_MOLD, State.READY, 0),), again), policy=policy)
    (out,) = plan(policy, fleet, again)
    assert (type(out), out.reason.rule) == (a.Retire, Rule.RELOAD), "one alone makes room for the first try"

    fleet = told(fleet, m.Asked(out.seat, out.reason, again), policy=policy)
    assert plan(policy, fleet, again) == ()
    fleet = told(fleet, m.Exited(out.seat, again, clean=True), policy=policy)
    (spawn,) = plan(policy, fleet, again)
    assert (spawn.generation, spawn.mold) == (2, NEXT_MOLD)
    fleet = told(fleet, Start(spawn.slot, 9, 900, 60.0, again, mold=NEXT_MOLD), policy=policy)
    assert plan(policy, fleet, again) == ()

    failed = told(fleet, m.Exited(9, again + 1, transient=False), policy=policy)
    for at in (again + 1, again + 60):
        (spawn,) = plan(policy, failed, at)
        assert (spawn.generation, spawn.mold) == (1, MOLD), "a slot in which it failed gets its old code back"

    proven = told(fleet, m.Observed((m.Reading(9, State.READY, 1),), again + 1), policy=policy)
    rest = [one for one in plan(policy, proven, again + 1) if isinstance(one, a.Retire) and one.seat < MOLD]
    assert len(rest) == 2, "then as many leave at once as may be away"


def test_a_server_of_one_worker_gets_its_old_code_back_from_the_old_mold():
    policy = Policy(load="mold", load_concurrency=2, stand_in=False, timeout=0.0, surge=0)
    fleet = told(
        served(1, policy=policy), m.GenerationStarted(20.0), m.MoldSpawned(NEXT_MOLD, 501, 2, 60.0, 20.0)
    )
    fleet = told(fleet, m.Observed((m.Reading(NEXT_MOLD, State.READY, 0),), 20.5), policy=policy)
    (out,) = plan(policy, fleet, 20.5)
    fleet = told(
        fleet, m.Asked(out.seat, out.reason, 20.5), m.Exited(out.seat, 21.0, clean=True), policy=policy
    )
    fleet = told(fleet, Start(1, 9, 900, 60.0, 21.0, mold=NEXT_MOLD), policy=policy)
    fleet = told(fleet, m.Exited(9, 21.5, transient=False), policy=policy)
    assert fleet.frozen
    (spawn,) = plan(policy, fleet, 21.5)
    assert (spawn.generation, spawn.mold) == (1, MOLD)


def test_a_mold_that_does_not_fork_in_time_is_killed_and_nothing_else_happens():
    fleet = told(served(), m.Exited(1, 20.0), m.Spawning(1, 9, 1, 60.0, 20.0, mold=MOLD))
    assert plan(POLICY, fleet, 20.0 + FORK_TIMEOUT) == ()
    assert next_deadline(POLICY, fleet, 20.0) <= 20.0 + FORK_TIMEOUT
    (kill,) = plan(POLICY, fleet, 20.1 + FORK_TIMEOUT)
    assert (kill.seat, kill.reason.rule) == (MOLD, Rule.FORK_TIMEOUT)


def test_an_excused_fork_costs_its_slot_no_back_off():
    fleet = told(served(), m.Exited(1, 20.0), m.Spawning(1, 9, 1, 60.0, 20.0, mold=MOLD))
    fleet = told(fleet, m.SpawnFailed(1, 20.1, 9, excused=True))
    assert fleet.record(1).next_try <= 20.1
    assert 9 not in fleet.workers


def test_a_slot_waits_for_the_mold_and_loads_by_itself_once_the_mold_has_failed_twice():
    fleet, now = told(served(), m.Exited(MOLD, 20.0), m.Exited(1, 20.0)), 20.0
    for number in range(PATIENCE):
        assert not [one for one in plan(POLICY, fleet, now) if isinstance(one, a.Spawn)], number
        fleet = told(fleet, m.MoldSpawned(MOLD, 510 + number, 1, 60.0, now), m.Exited(MOLD, now + 1.0))
        now += 1.0
    (spawn,) = (one for one in plan(POLICY, fleet, now) if isinstance(one, a.Spawn))
    assert (spawn.slot, spawn.mold) == (1, None)


@pytest.mark.parametrize("reloaded", [False, True])
def test_an_unfit_mold_becomes_a_worker_under_auto_and_the_others_load(reloaded):
    fleet = with_mold(3, State.UNFIT, policy=AUTO)
    assert plan(AUTO, fleet, 1.0) == (a.Convert(MOLD, 1), a.Spawn(2, 1, 60.0))
    fleet = told(fleet, m.Converted(MOLD, 1, 1.0), policy=AUTO)
    assert fleet.workers[MOLD].slot == 1
    assert not fleet.molds
    assert not [one for one in plan(AUTO, fleet, 1.0) if isinstance(one, a.SpawnMold)]
    if reloaded:  # the next generation may be fit
        fleet = told(fleet, m.GenerationStarted(30.0), policy=AUTO)
        assert a.SpawnMold(2, 60.0) in plan(AUTO, fleet, 30.0)


def test_an_unfit_application_is_an_error_of_the_configuration_under_mold():
    (action,) = plan(POLICY, with_mold(2, State.UNFIT), 1.0)
    assert isinstance(action, a.GiveUp)
    assert (action.exit_code, action.reason.rule) == (ExitCode.USAGE, Rule.UNFIT)


def test_a_mold_that_becomes_unfit_later_costs_no_worker_and_is_loaded_again():
    fleet = told(served(), m.Observed((m.Reading(MOLD, State.UNFIT, 0),), 20.0))
    (retired,) = plan(POLICY, fleet, 20.0)
    assert (retired.seat, retired.reason.rule) == (MOLD, Rule.UNFIT)
    fleet = told(fleet, m.Asked(MOLD, retired.reason, 20.0, quick=True), m.Exited(MOLD, 20.1, clean=True))
    assert a.SpawnMold(1, 60.0) in plan(POLICY, fleet, 60.0)
    fleet = told(
        fleet, m.MoldSpawned(MOLD, 501, 1, 60.0, 60.0), m.Observed((m.Reading(MOLD, State.READY, 0),), 61.0)
    )
    assert not fleet.unfit


def test_a_mold_and_a_worker_never_load_at_once_in_want_of_memory():
    fleet = told(served(), m.Exited(MOLD, 20.0), m.Exited(1, 20.0))
    fleet = told(fleet, m.MoldSpawned(MOLD, 510, 1, 60.0, 20.0), m.Exited(MOLD, 21.0, memory=True))
    fleet = told(fleet, m.MoldSpawned(MOLD, 511, 1, 60.0, 22.0), m.Exited(MOLD, 23.0, memory=True))
    (spawn,) = plan(POLICY, fleet, 60.0)
    assert isinstance(spawn, a.Spawn)


def test_a_mold_that_cannot_be_started_is_done_without_in_the_end():
    """For example where the kernel or a sandbox refuses what a mold needs."""
    fleet, now = Fleet(target=1), 0.0
    for _ in range(PATIENCE):
        assert a.SpawnMold(1, 60.0) in plan(POLICY, fleet, now)
        fleet = told(fleet, m.SpawnFailed(0, now))
        assert fleet.mold_record.next_try > now
        now = fleet.mold_record.next_try
    assert a.Spawn(1, 1, 60.0) in plan(POLICY, fleet, now)
    assert fleet.mold_record.not_spawned == PATIENCE
    fleet = told(fleet, m.MoldSpawned(MOLD, 500, 1, 60.0, now))
    assert fleet.mold_record.not_spawned == 0, "it has been started, and loads"


def test_molds_that_die_as_soon_as_they_are_ready_wait_longer_each_time_and_are_done_without():
    fleet, now, waits = Fleet(target=1), 0.0, []
    for number in range(4):
        fleet = told(fleet, m.MoldSpawned(MOLD, 500 + number, 1, 60.0, now))
        fleet = told(fleet, m.Observed((m.Reading(MOLD, State.READY, 0),), now))
        assert [one.mold for one in plan(POLICY, fleet, now) if isinstance(one, a.Spawn)] == [MOLD]
        fleet = told(fleet, m.Exited(MOLD, now))
        waits.append(fleet.mold_record.next_try - now)
        spawns = [one.mold for one in plan(POLICY, fleet, now) if isinstance(one, a.Spawn)]
        assert spawns == ([] if number + 1 < PATIENCE else [None])
        now = fleet.mold_record.next_try
    assert waits[0] == 0.0
    assert waits[1] < waits[3]


def refused(fleet: Fleet, *, now: float, memory: bool = False) -> Fleet:
    """A mold that is asked for a worker in slot 1, and cannot fork it."""
    asked = m.Spawning(1, 9, fleet.generation, 60.0, now, mold=MOLD)
    return told(fleet, asked, m.SpawnFailed(1, now, 9, memory=memory))


def test_a_slot_loads_by_itself_once_its_mold_could_not_fork_twice_and_asks_it_again_the_next_time():
    """For example where the mold's user may have no more processes, and the arbiter's may."""
    fleet, now = told(served(), m.Exited(1, 20.0)), 20.0
    for number in range(1, PATIENCE + 1):
        assert a.Spawn(1, 1, 60.0, mold=MOLD) in plan(POLICY, fleet, now)
        fleet = refused(fleet, now=now)
        assert fleet.record(1).not_spawned == number, "as the finding counts them"
        assert fleet.record(1).next_try > now
        now = fleet.record(1).next_try
    assert a.Spawn(1, 1, 60.0) in plan(POLICY, fleet, now)
    fleet = told(fleet, m.Spawning(1, 9, 1, 60.0, now), m.Spawned(9, 900, now))
    assert fleet.record(1).not_spawned == 0
    fleet = told(fleet, m.Observed((m.Reading(9, State.READY, 1),), now), m.Exited(9, now + 60.0))
    assert a.Spawn(1, 1, 60.0, mold=MOLD) in plan(POLICY, fleet, now + 60.0)


def test_a_slot_never_loads_by_itself_because_its_mold_had_no_memory_for_a_fork():
    fleet, now = told(served(), m.Exited(1, 20.0)), 20.0
    for _ in range(5):
        fleet = refused(fleet, now=now, memory=True)
        now = fleet.record(1).next_try
    assert a.Spawn(1, 1, 60.0, mold=MOLD) in plan(POLICY, fleet, now)


def test_a_slot_does_not_load_code_that_no_mold_has_proved():
    fleet, now = told(served(), m.GenerationStarted(20.0), m.Exited(1, 20.0)), 20.0
    for _ in range(PATIENCE):
        fleet = told(fleet, m.Spawning(1, 9, 1, 60.0, now, mold=MOLD), m.SpawnFailed(1, now, 9))
        now = fleet.record(1).next_try
    (spawn,) = (one for one in plan(POLICY, fleet, now) if isinstance(one, a.Spawn))
    assert (spawn.generation, spawn.mold) == (1, MOLD)
