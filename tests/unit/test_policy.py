"""Single decisions of the policy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.backoff import back_off, load_timeout
from django_workerguard.policy.failure import is_transient
from django_workerguard.policy.plan import ABORT_GRACE, KILL_AGAIN, next_deadline, plan
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.strikes import MOST_RETRIES
from django_workerguard.policy.view import Fleet, Policy, Retry, State, Stop
from django_workerguard.probe.clock import AwakeClock
from tests.unit.fleets import POLICY, Start, ready_fleet, told

MB = 1 << 20
REFUSED = m.ReloadRefused("no settings", 21.0, Retry.ALWAYS)


@given(st.integers(1, 200), st.integers(1, 64), st.floats(0.01, 10), st.floats(10, 100), st.booleans())
def test_a_back_off_lies_between_half_and_the_whole(strikes, slot, first, longest, transient):
    wait = back_off(strikes, slot=slot, first=first, longest=longest, transient=transient)
    whole = min(longest, first * (1 if transient else 4) * 2 ** min(strikes - 1, 60))
    assert whole / 2 <= wait <= whole


def test_the_time_of_a_load_grows_to_four_times():
    assert [load_timeout(60, n) for n in range(5)] == [60, 120, 240, 240, 240]


@pytest.mark.parametrize(
    ("names", "transient"),
    [
        ({"MemoryError"}, True),
        ({"OSError"}, True),
        ({"OperationalError"}, True),
        ({"ImportError"}, False),
        (set(), False),
    ],
)
def test_what_may_pass_by_itself(names, transient):
    assert is_transient(names) is transient


def test_a_failed_load_waits_and_a_killed_worker_does_not():
    fleet = told(ready_fleet(2), m.Exited(1, 20.0))
    assert [type(action) for action in plan(POLICY, fleet, 20.0)] == [a.Spawn]
    fleet = told(fleet, Start(1, 1, 201, 60.0, 20.0), m.Exited(1, 21.0, transient=False))
    assert plan(POLICY, fleet, 21.0) == ()
    due = fleet.record(1).next_try
    assert next_deadline(POLICY, fleet, 21.0) == due
    assert [type(action) for action in plan(POLICY, fleet, due)] == [a.Spawn]


@pytest.mark.parametrize(
    ("free", "together", "after_ten_seconds"),
    [(480 * MB, 1, 2), (2 * 256 * MB + 16 * MB, 2, 4), (4 * 256 * MB + 16 * MB, 4, 4), (None, 4, 4)],
)
def test_loads_that_nobody_has_measured_begin_together_only_if_there_is_plenty(
    free, together, after_ten_seconds
):
    policy = replace(POLICY, load_concurrency=4, memory_margin=16 * MB)
    fleet = Fleet(target=4, free=free)
    spawns = [one for one in plan(policy, fleet, 1.0) if isinstance(one, a.Spawn)]
    assert len(spawns) == together
    fleet = told(fleet, *(Start(one.slot, one.slot, 100 + one.slot, 60.0, 1.0) for one in spawns))
    assert plan(policy, fleet, 2.0) == ()
    later = [one for one in plan(policy, fleet, 11.0) if isinstance(one, a.Spawn)]
    assert together + len(later) == after_ten_seconds
    fleet = told(
        fleet, m.Observed((m.Reading(1, State.READY, 1),), 3.0), m.Weighed(1, 100 * MB), policy=policy
    )
    measured = [one for one in plan(policy, fleet, 3.0) if isinstance(one, a.Spawn)]
    assert len(measured) == {480 * MB: 3, 528 * MB: 2}.get(free, 0)


def test_a_worker_that_loaded_before_the_failure_does_not_reset_it():
    fleet = Fleet(target=2)
    fleet = told(fleet, Start(1, 1, 101, 60, 0), Start(2, 2, 102, 60, 0), m.Exited(2, 1.0))
    assert fleet.load_failed
    fleet = told(fleet, m.Observed((m.Reading(1, State.READY, 1),), 2.0))
    assert fleet.load_failed, "it was spawned before the failure"
    fleet = told(fleet, Start(2, 2, 103, 60, 3), m.Observed((m.Reading(2, State.READY, 1),), 4.0))
    assert not fleet.load_failed


def test_need_app():
    fleet = Fleet(target=1)
    for number in range(3):
        fleet = told(fleet, Start(1, 1, number, 60, 0.0), m.Exited(1, 0.0))
    for need_app, expected in (("worker", a.GiveUp), ("server", a.GiveUp), ("off", None)):
        policy = Policy(need_app=need_app, stand_in=False)
        actions = plan(policy, fleet, 0.0)
        assert (type(actions[0]) if actions else None) is expected


def test_need_app_worker_never_ends_a_server_that_was_ready_once():
    fleet = told(ready_fleet(1), m.Exited(1, 20.0))
    for number in range(9):
        fleet = told(fleet, Start(1, 1, number, 60, 0.0), m.Exited(1, 0.0))
    assert not any(isinstance(action, a.GiveUp) for action in plan(POLICY, fleet, 0.0))


def test_a_new_generation_has_one_canary():
    policy = Policy(surge=3, load_concurrency=3, stand_in=False, timeout=0.0)
    fleet = told(ready_fleet(4, policy=policy), m.GenerationStarted(50.0), policy=policy)
    assert len(plan(policy, fleet, 50.0)) == 1
    fleet = told(fleet, Start(1, 9, 900, 60, 50.0), policy=policy)
    assert plan(policy, fleet, 50.0) == ()
    fleet = told(fleet, m.Observed((m.Reading(9, State.READY, 1),), 51.0), policy=policy)
    kinds = [type(action) for action in plan(policy, fleet, 51.0)]
    assert kinds.count(a.Retire) == 1
    assert kinds.count(a.Spawn) >= 2


def test_a_canary_that_fails_holds_the_whole_reload_back():
    fleet = told(ready_fleet(4), m.GenerationStarted(50.0), Start(1, 9, 900, 60, 50.0), m.Exited(9, 51.0))
    assert plan(POLICY, fleet, 51.0) == ()
    assert fleet.canary_next_try > 51.0
    assert fleet.ready == 4


def test_without_a_surge_it_breaks_before_it_makes_one_at_a_time():
    policy = Policy(surge=0, stand_in=False, timeout=0.0)
    fleet = told(ready_fleet(3, policy=policy), m.GenerationStarted(50.0), policy=policy)
    actions = plan(policy, fleet, 50.0)
    assert [type(action) for action in actions] == [a.Retire]
    fleet = told(fleet, m.Asked(actions[0].seat, Reason(Rule.RELOAD), 50.0), policy=policy)
    assert plan(policy, fleet, 50.0) == ()
    fleet = told(fleet, m.Exited(actions[0].seat, 51.0, clean=True), policy=policy)
    assert [type(action) for action in plan(policy, fleet, 51.0)] == [a.Spawn]


def test_exits_are_bounded():
    fleet = told(ready_fleet(1), m.StopAsked(20.0))
    assert [type(action) for action in plan(POLICY, fleet, 20.0)] == [a.CloseListeners, a.Retire]
    fleet = told(fleet, m.ListenersClosed(20.0), m.Asked(1, Reason(Rule.STOP), 20.0))
    assert plan(POLICY, fleet, 20.0 + POLICY.worker_reload_mercy) == ()
    assert [type(action) for action in plan(POLICY, fleet, 20.1 + POLICY.worker_reload_mercy)] == [a.Abort]
    fleet = told(fleet, m.Aborted(1, Reason(Rule.WORKER_RELOAD_MERCY), 100.0))
    assert plan(POLICY, fleet, 100.0 + ABORT_GRACE) == ()
    assert [type(action) for action in plan(POLICY, fleet, 100.1 + ABORT_GRACE)] == [a.Kill]
    fleet = told(fleet, m.Exited(1, 110.0))
    assert plan(POLICY, fleet, 110.0) == (a.Halt(0),)


def test_the_stand_in_comes_after_its_time_and_goes_before_anybody_is_admitted():
    policy = Policy(stand_in_after=5.0)
    fleet = told(ready_fleet(1, policy=policy), m.StandInSpawned(50, 500, 0.0), policy=policy)
    fleet = told(fleet, m.Exited(1, 20.0), Start(1, 1, 201, 60, 20.0), m.Exited(1, 21.0), policy=policy)
    assert a.Duty(50, on=True) not in plan(policy, fleet, 24.9)
    assert a.Duty(50, on=True) in plan(policy, fleet, 25.0)
    fleet = told(
        fleet, m.DutySet(50, True, 25.0), m.Observed((m.Reading(50, None, 1, True),), 25.1), policy=policy
    )
    fleet = told(fleet, m.GenerationStarted(25.5), policy=policy)
    assert not any(isinstance(action, a.Duty) for action in plan(policy, fleet, 25.5)), "a reload is no load"
    fleet = told(fleet, Start(1, 2, 202, 60, 26.0), policy=policy)
    fleet = told(fleet, m.Observed((m.Reading(2, State.LOADED, 1),), 27.0), policy=policy)
    assert plan(policy, fleet, 27.0) == (a.Duty(50, on=False),)
    fleet = told(fleet, m.DutySet(50, False, 27.0), policy=policy)
    assert a.Admit(2) not in plan(policy, fleet, 27.1), "it still answers"
    fleet = told(fleet, m.Observed((m.Reading(50, None, 1, False),), 27.2), policy=policy)
    assert a.Admit(2) in plan(policy, fleet, 27.2)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_awake_clock_takes_no_step_longer_than_its_longest(steps):
    now = [0.0]
    clock = AwakeClock(longest_step=2.0, monotonic=lambda: now[0])
    before = clock()
    for step in steps:
        now[0] += step
        after = clock()
        assert 0 <= after - before <= 2.0 + 1e-6
        before = after


def test_the_awake_clock_does_not_go_back():
    now = [100.0]
    clock = AwakeClock(monotonic=lambda: now[0])
    before = clock()
    now[0] = 50.0
    assert clock() >= before


def test_a_worker_that_is_aborted_is_not_ready_whatever_it_says():
    """It became ready in the moment in which its load timed out: its predecessor must not go for it."""
    policy = Policy(stand_in=False, timeout=0.0)
    fleet = told(ready_fleet(1, policy=policy), m.RecycleAsked(1, Reason(Rule.BY_HAND)), policy=policy)
    fleet = told(
        fleet, Start(1, 9, 900, 5.0, 20.0), m.Aborted(9, Reason(Rule.LOAD_TIMEOUT), 26.0), policy=policy
    )
    fleet = told(fleet, m.Observed((m.Reading(9, State.READY, 1),), 26.1), policy=policy)
    assert plan(policy, fleet, 26.2) == ()
    assert fleet.workers[9].state is State.LOADING
    fleet = told(fleet, m.Exited(9, 27.0), policy=policy)
    assert fleet.record(1).failures == 1
    assert fleet.ready == 1


def test_shrinking_never_takes_the_last_who_can_serve():
    fleet = told(ready_fleet(2), m.Exited(1, 20.0), m.TargetChanged(1))
    assert a.Retire(2, Reason(Rule.SCALE, "above the target")) not in plan(POLICY, fleet, 20.0)
    fleet = told(fleet, Start(1, 1, 201, 60.0, 20.0), m.Observed((m.Reading(1, State.READY, 1),), 21.0))
    assert plan(POLICY, fleet, 21.0) == (a.Retire(2, Reason(Rule.SCALE, "above the target")),)


def test_a_worker_that_stops_by_itself_is_succeeded_at_once_and_gets_its_mercy():
    fleet = told(ready_fleet(1), m.Observed((m.Reading(1, State.RETIRING, 2),), 20.0))
    assert not fleet.ready
    assert [type(action) for action in plan(POLICY, fleet, 20.0)] == [a.Spawn]
    assert a.Abort in [type(action) for action in plan(POLICY, fleet, 21.0 + POLICY.worker_reload_mercy)]


def test_one_that_always_stops_by_itself_is_no_storm_of_forks():
    fleet, now = Fleet(target=1), 0.0
    for seat in range(1, 5):
        fleet = told(fleet, Start(1, seat, seat, 60.0, now), m.Admitted(seat, now))
        fleet = told(fleet, m.Observed((m.Reading(seat, State.READY, 1),), now))
        fleet = told(fleet, m.Observed((m.Reading(seat, State.RETIRING, 2),), now), m.Exited(seat, now))
    assert fleet.record(1).next_try > now


def test_a_slot_that_was_healthy_for_long_is_tried_again_soon():
    fleet = Fleet(target=1)
    for number in range(6):
        fleet = told(fleet, Start(1, 1, number, 60, 0.0), m.Exited(1, 0.0))
    fleet = told(fleet, Start(1, 1, 7, 60, 0.0), m.Observed((m.Reading(1, State.READY, 1),), 0.0))
    fleet = told(fleet, m.GenerationStarted(1000.0), Start(1, 2, 8, 60, 1000.0), m.Exited(2, 1001.0))
    assert fleet.record(1).next_try - 1001.0 <= POLICY.load_retry_delay


def test_who_comes_into_an_empty_slot_is_not_wanted_out():
    fleet = told(ready_fleet(1), m.Exited(1, 20.0), m.RecycleAsked(1, Reason(Rule.BY_HAND)))
    fleet = told(fleet, Start(1, 1, 201, 60.0, 20.0), m.Observed((m.Reading(1, State.READY, 1),), 21.0))
    assert plan(POLICY, fleet, 21.0) == ()


def test_a_second_stop_does_not_forget_why_the_first_came():
    fleet = told(
        ready_fleet(1),
        m.StopAsked(20.0, exit_code=22, reason=Reason(Rule.GIVE_UP_AFTER)),
        m.StopAsked(21.0, quick=True),
    )
    assert fleet.stop == Stop(at=20.0, quick=True, exit_code=22, reason=Reason(Rule.GIVE_UP_AFTER))


@settings(deadline=None)
@given(st.floats(0.5, 30.0), st.floats(0.05, 20.0))
def test_a_slot_heals_however_fast_reloads_come(load, every):
    """Reloads never stop, and each begins while the load before it is under way."""
    fleet, now, begun = Fleet(target=1), 0.0, 0.0
    for number in range(10_000):
        for action in plan(POLICY, fleet, now):
            if isinstance(action, a.Retire):
                fleet = told(fleet, m.Asked(action.seat, action.reason, now), m.Exited(action.seat, now))
        for action in plan(POLICY, fleet, now):
            if isinstance(action, a.Spawn):
                fleet, begun = told(fleet, Start(1, number, number, 0.0, now)), now
        if now + every >= begun + load:
            break
        now += every
        fleet = told(fleet, m.GenerationStarted(now))
    assert begun + load <= 4 * load + every, (
        "each load that is taken away had twice the time of the one before"
    )


def test_a_successor_that_loads_older_code_is_superseded_each_time():
    """A worker serves in its slot, so that nothing is lost by it."""
    fleet = told(ready_fleet(1), m.GenerationStarted(20.0))
    for number in range(2, 6):
        now = 20.0 + number
        fleet = told(fleet, Start(1, number, 200 + number, 60.0, now), m.GenerationStarted(now + 0.5))
        (action,) = (one for one in plan(POLICY, fleet, now + 0.5) if isinstance(one, a.Retire))
        assert action.seat == number
        fleet = told(fleet, m.Asked(number, action.reason, now + 0.5), m.Exited(number, now + 0.6))


@pytest.mark.parametrize("state", [State.FAILED, State.READY])
def test_a_process_is_killed_once_and_again_only_when_the_kernel_has_not_ended_it(state):
    policy = Policy(stand_in=False, timeout=5.0)
    fleet = told(Fleet(target=1), Start(1, 1, 101, 60.0, 0.0), policy=policy)
    fleet = told(fleet, m.Observed((m.Reading(1, state, 1),), 1.0), policy=policy)
    killed = []
    for tenth in range(10, 400):
        now = tenth / 10
        for action in plan(policy, fleet, now):
            if isinstance(action, a.Abort):
                fleet = told(fleet, m.Aborted(1, action.reason, now), policy=policy)
            elif isinstance(action, a.Kill):
                killed.append(now)
                fleet = told(fleet, m.Killed(1, action.reason, now), policy=policy)
    assert len(killed) in (3, 4)
    assert all(later - earlier >= KILL_AGAIN for earlier, later in pairwise(killed))


@given(st.integers(1, 50), st.integers(1, 64))
def test_servers_of_another_seed_wait_for_another_time(strikes, slot):
    waits = {
        back_off(strikes, slot=slot, first=1.0, longest=1e9, transient=True, seed=seed)
        for seed in (0.0, 0.1, 0.45, 0.8)
    }
    assert len(waits) == 4


@given(st.sampled_from([State.LOADING, State.LOADED]), st.integers(0, 2), st.integers(1, 4))
def test_whoever_loads_older_code_makes_room_for_newer(state, surge, concurrency):
    """It may hang in it for as long as load-timeout lets it, and take the place of the load that would heal."""
    policy = Policy(surge=surge, load_concurrency=concurrency, load_timeout=0.0, stand_in=False)
    fleet = told(Fleet(target=1), Start(1, 1, 101, 0.0, 0.0), policy=policy)
    fleet = told(fleet, m.Observed((m.Reading(1, state, 1),), 1.0), m.GenerationStarted(2.0), policy=policy)
    retired = [action for action in plan(policy, fleet, 2.0) if isinstance(action, a.Retire)]
    assert [(action.seat, action.reason) for action in retired] == [
        (1, Reason(Rule.SUPERSEDED, "generation 2 has begun"))
    ]
    fleet = told(fleet, m.Asked(1, retired[0].reason, 2.0), policy=policy)
    spawned = [action for action in plan(policy, fleet, 2.1) if isinstance(action, a.Spawn)]
    if surge:  # without one nobody comes before it has gone
        assert [(action.slot, action.generation) for action in spawned] == [(1, 2)]
    assert any(isinstance(action, a.Abort) for action in plan(policy, fleet, 5.0)), (
        "it does not get a request's mercy"
    )


def test_without_a_surge_no_worker_of_a_new_generation_stays_unloaded_while_an_older_one_serves():
    policy = Policy(surge=0, need_app="off", load_retries=1, stand_in=False, timeout=0.0)
    fleet = told(ready_fleet(3, policy=policy), m.GenerationStarted(20.0), policy=policy)
    (out,) = plan(policy, fleet, 20.0)
    fleet = told(
        fleet, m.Asked(out.seat, out.reason, 20.0), m.Exited(out.seat, 20.1, clean=True), policy=policy
    )
    (spawn,) = plan(policy, fleet, 20.1)
    assert not spawn.stay
    fleet = told(
        fleet, Start(out.seat, 5, 105, 60.0, 20.2), m.Exited(5, 20.5, transient=False), policy=policy
    )
    assert fleet.frozen
    (spawn,) = plan(policy, fleet, 100.0)
    assert (spawn.slot, spawn.stay) == (out.seat, False), "the others serve on"


def test_without_a_surge_a_load_that_fails_freezes_the_reload_as_with_one():
    policy = Policy(surge=0, stand_in=False, timeout=0.0)
    fleet = told(ready_fleet(2, policy=policy), m.GenerationStarted(20.0), policy=policy)
    (out,) = (action for action in plan(policy, fleet, 20.0) if isinstance(action, a.Retire))
    fleet = told(
        fleet, m.Asked(out.seat, out.reason, 20.0), m.Exited(out.seat, 20.1, clean=True), policy=policy
    )
    fleet = told(
        fleet, Start(out.seat, 5, 105, 60.0, 20.2), m.Exited(5, 20.5, transient=False), policy=policy
    )
    assert fleet.frozen
    assert not [action for action in plan(policy, fleet, 30.0) if isinstance(action, a.Retire)]


def test_a_refused_reload_is_tried_again_until_one_begins_a_generation():
    policy = Policy(stand_in=False)
    refused = told(
        ready_fleet(1, policy=policy), m.ReloadRefused("no settings", 20.0, Retry.ALWAYS), policy=policy
    )
    first = next_deadline(policy, refused, 20.0)
    assert 20.0 < first <= 20.0 + policy.load_retry_delay
    assert a.Reload() not in plan(policy, refused, first - 0.01)
    assert a.Reload() in plan(policy, refused, first)
    assert a.Reload() not in plan(policy, told(refused, m.StopAsked(first), policy=policy), first)

    reading = told(refused, m.ReloadBegun(retry=True), policy=policy)
    assert a.Reload() not in plan(policy, reading, 1000.0), "it is being tried"
    again = told(reading, m.ReloadRefused("no settings", 30.0, Retry.ALWAYS), policy=policy)
    assert again.refusal.next_try - 30.0 > first - 20.0, "each wait is longer"
    assert told(again, m.GenerationStarted(31.0), policy=policy).refusal is None


@pytest.mark.parametrize(
    ("messages", "target"),
    [
        ((m.ReloadBegun(), m.TargetChanged(3)), 3),
        ((m.ReloadBegun(), m.TargetChanged(3), REFUSED, m.ReloadBegun(retry=True)), 3),
        ((m.ReloadBegun(), REFUSED, m.TargetChanged(3), m.ReloadBegun(retry=True)), 3),
        ((m.ReloadBegun(), REFUSED, m.TargetChanged(3), m.ReloadBegun()), 2),
        ((m.TargetChanged(3), m.ReloadBegun()), 2),
        ((m.ReloadBegun(), m.TargetChanged(3, by_hand=False)), 2),
        ((m.ReloadBegun(), m.TargetChanged(3), m.GenerationStarted(22.0), m.ReloadBegun()), 2),
    ],
    ids=[
        "while the settings are read",
        "and then refused",
        "while it is refused",
        "and then asked for again",
        "before the reload",
        "by what was measured",
        "for the reload before",
    ],
)
def test_a_number_asked_for_after_the_reload_counts_and_not_the_configurations(messages, target):
    policy = Policy(stand_in=False)
    fleet = told(ready_fleet(2, policy=policy), *messages, m.GenerationStarted(30.0, 2), policy=policy)
    assert (fleet.next_target or fleet.target) == target


def test_a_configuration_that_cannot_be_used_is_tried_again_for_some_time():
    """Each try may leave something in the arbiter."""
    policy, now, tries = Policy(stand_in=False), 20.0, 0
    fleet = told(ready_fleet(1, policy=policy), m.ReloadRefused("1 / 0", now, Retry.SEVERAL), policy=policy)
    while fleet.refusal.next_try is not None:
        now, tries = fleet.refusal.next_try, tries + 1
        refused = m.ReloadRefused("1 / 0", now, Retry.SEVERAL)
        fleet = told(fleet, m.ReloadBegun(retry=True), refused, policy=policy)
    assert tries == MOST_RETRIES
    assert now - 20.0 > 300, "minutes, in which a deployment ends"


def test_a_reload_that_needs_a_restart_is_not_tried_again():
    policy = Policy(stand_in=False)
    message = m.ReloadRefused("bind", 20.0, Retry.NEVER)
    refused = told(ready_fleet(1, policy=policy), message, policy=policy)
    assert a.Reload() not in plan(policy, refused, 1000.0)
    assert refused.refusal.reason == "bind"


def test_a_drain_lasts_until_no_connection_waits_and_no_longer_than_the_mercy():
    policy = Policy(stand_in=False, drain_delay=5.0, worker_reload_mercy=30.0)
    fleet = told(ready_fleet(1, policy=policy), m.StopAsked(10.0), policy=policy)

    def stops(at: float, backlog: int) -> bool:
        measured = told(fleet, m.Measured((), at, backlog), policy=policy)
        return any(isinstance(action, a.CloseListeners) for action in plan(policy, measured, at))

    assert not stops(14.9, 0), "the delay is for the load balancer"
    assert stops(15.0, 0)
    assert not stops(15.0, 3)
    assert not stops(44.9, 3)
    assert stops(45.0, 3), "clients that never stop coming do not keep the server"


def test_without_a_drain_delay_a_stop_waits_for_no_connection():
    policy = Policy(stand_in=False)
    fleet = told(ready_fleet(1, policy=policy), m.StopAsked(10.0), m.Measured((), 10.0, 5), policy=policy)
    assert any(isinstance(action, a.CloseListeners) for action in plan(policy, fleet, 10.0))


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_ends_although_the_kernel_does_not_end_a_process(quick):
    """It hangs in a read of a network file system: SIGKILL waits until that returns."""
    policy = Policy(stand_in=False, worker_reload_mercy=20.0, drain_delay=5.0)
    fleet = told(ready_fleet(2, policy=policy), m.StopAsked(100.0, quick=quick), policy=policy)
    halted = None
    for second in range(100, 200):
        for action in plan(policy, fleet, float(second)):
            match action:
                case a.Retire(seat, reason, quick):
                    fleet = told(fleet, m.Asked(seat, reason, second, quick), policy=policy)
                case a.Abort(seat, reason):
                    fleet = told(fleet, m.Aborted(seat, reason, second), policy=policy)
                case a.Kill(seat, reason):
                    fleet = told(fleet, m.Killed(seat, reason, second), policy=policy)
                case a.Halt():
                    halted = halted or (second, action)
    second, action = halted
    assert second == 156, "twice the mercy, the drain delay, and ten seconds"
    assert action.reason == Reason(Rule.STOP, "still running, although killed: pid 101, 102")
    assert all(worker.killed for worker in fleet.workers.values())


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_does_not_wait_for_processes_that_the_kernel_is_known_not_to_end(quick):
    fleet = told(ready_fleet(2), m.Killed(1, Reason(Rule.TIMEOUT), 20.0), m.Observed((), 25.0))
    fleet = told(fleet, m.StopAsked(100.0, quick=quick), m.ListenersClosed(100.0))
    assert [type(action) for action in plan(POLICY, fleet, 100.0)] == [a.Retire], (
        "the other one has its mercy"
    )
    fleet = told(fleet, m.Exited(2, 101.0, clean=True))
    reason = Reason(Rule.STOP, "still running, although killed: pid 101")
    assert plan(POLICY, fleet, 101.0) == (a.Halt(0, reason),)


def overdue(fleet: Fleet, seat: int, *targets: str, in_flight: int = 1, at: float = 1.0) -> Fleet:
    reading = m.Reading(seat, State.READY, 2, in_flight=in_flight, overdue=targets)
    return told(fleet, m.Observed((reading,), at))


def test_a_worker_with_an_overdue_request_gets_a_successor_and_leaves_only_once_that_is_ready():
    fleet = overdue(ready_fleet(2), 1, "GET /slow", "GET /export", in_flight=3)
    (spawn,) = plan(POLICY, fleet, 1.0)
    assert (spawn.slot, spawn.reason) == (1, Reason(Rule.REQUEST_TIMEOUT, "GET /slow and 1 more"))
    fleet = told(fleet, Start(1, 9, 109, 60.0, 1.0, spawn.reason))
    assert not [action for action in plan(POLICY, fleet, 2.0) if isinstance(action, a.Retire)]
    fleet = told(fleet, m.Admitted(9, 2.0), m.Observed((m.Reading(9, State.READY, 1),), 3.0))
    assert plan(POLICY, fleet, 3.0) == (a.Retire(1, spawn.reason),)


def test_it_is_replaced_however_young_it_is():
    policy = Policy(load_concurrency=2, stand_in=False, timeout=0.0, min_worker_lifetime=3600.0)
    assert plan(policy, overdue(ready_fleet(2), 1, "GET /slow"), 1.0)


def test_the_last_ready_worker_is_never_given_up_for_an_overdue_request():
    fleet = overdue(ready_fleet(1), 1, "GET /slow")
    for at in (1.0, 100.0, 10_000.0):
        assert [type(action) for action in plan(POLICY, fleet, at)] == [a.Spawn]


def test_a_leaving_worker_is_aborted_as_soon_as_only_overdue_requests_are_left():
    reason = Reason(Rule.REQUEST_TIMEOUT, "GET /slow")
    fleet = told(overdue(ready_fleet(2), 1, "GET /slow", in_flight=2), m.Asked(1, reason, 2.0))
    assert not [action for action in plan(POLICY, fleet, 3.0) if isinstance(action, a.Abort)]
    reading = m.Reading(1, State.RETIRING, 3, in_flight=1, overdue=("GET /slow",))
    fleet = told(fleet, m.Observed((reading,), 4.0))
    assert a.Abort(1, reason) in plan(POLICY, fleet, 4.0)


@pytest.mark.parametrize("rule", [Rule.RELOAD, Rule.MAX_REQUESTS, Rule.STOP])
def test_a_worker_that_leaves_for_another_reason_keeps_its_mercy(rule):
    fleet = told(overdue(ready_fleet(2), 1, "GET /slow"), m.Asked(1, Reason(rule), 2.0))
    assert not [action for action in plan(POLICY, fleet, 3.0) if isinstance(action, a.Abort)]


def test_an_overdue_request_can_only_be_reported():
    policy = Policy(load_concurrency=2, stand_in=False, timeout=0.0, request_timeout_action="report")
    assert plan(policy, overdue(ready_fleet(2), 1, "GET /slow"), 1.0) == ()


def test_a_process_that_the_kernel_does_not_end_keeps_no_worker_from_its_admission():
    """It has answered 503; killed, it answers nothing, whatever its seat says."""
    policy = Policy(need_app="off", load_concurrency=2, timeout=0.0)
    fleet = told(ready_fleet(1), m.Exited(1, 20.0), m.StandInSpawned(9, 99, 20.0))
    fleet = told(fleet, Start(1, 1, 201, 60.0, 20.0))
    answer = [m.Reading(1, State.UNLOADED, 1, on_duty=True), m.Reading(9, None, 1, on_duty=True)]
    fleet = told(fleet, m.Observed(tuple(answer), 21.0), policy=policy)
    reason = Reason(Rule.DUTY)
    fleet = told(fleet, m.Killed(1, reason, 22.0), m.Killed(9, reason, 22.0), m.Observed(tuple(answer), 27.0))
    assert [action.slot for action in plan(policy, fleet, 60.0) if isinstance(action, a.Spawn)] == [1]
    fleet = told(fleet, Start(1, 2, 202, 60.0, 60.0))
    loaded = m.Observed((*answer, m.Reading(2, State.LOADED, 1)), 61.0)
    assert a.Admit(2) in plan(policy, told(fleet, loaded), 61.0)


def test_a_process_that_the_kernel_is_known_not_to_end_is_killed_no_more():
    fleet = told(ready_fleet(2), m.Killed(1, Reason(Rule.TIMEOUT), 20.0), m.Observed((), 25.0))
    fleet = told(fleet, Start(1, 3, 103, 60.0, 25.0))
    fleet = told(fleet, m.Admitted(3, 26.0), m.Observed((m.Reading(3, State.READY, 1),), 26.0))
    assert not [action for at in (30.0, 31.0, 300.0) for action in plan(POLICY, fleet, at)]


def test_a_stand_in_that_the_kernel_does_not_end_is_replaced_and_gets_no_order():
    policy = Policy(stand_in_after=1.0, load_concurrency=2, timeout=0.0)
    fleet = told(
        ready_fleet(1, policy=policy), m.StandInSpawned(8, 98, 0.0), m.Killed(8, Reason(Rule.DUTY), 1.0)
    )
    fleet = told(fleet, m.Exited(1, 2.0), Start(1, 1, 201, 60.0, 2.0), m.Exited(1, 2.5), policy=policy)
    assert not [one for one in plan(policy, fleet, 4.0) if isinstance(one, a.Duty)], "it ends"
    answers = m.Reading(8, None, 1, on_duty=True)
    fleet = told(fleet, m.Observed((answers,), 6.0), policy=policy)
    assert a.SpawnStandIn() in plan(policy, fleet, 10.0)
    fleet = told(fleet, m.StandInSpawned(9, 99, 10.0), m.Observed((answers,), 11.0), policy=policy)
    assert a.Duty(9, on=True) in plan(policy, fleet, 11.0)
    assert told(fleet, m.StandInGone(12.0, 8), policy=policy).stand_in.seat == 9, (
        "the old one has ended at last"
    )

    fleet = told(fleet, m.Killed(9, Reason(Rule.DUTY), 20.0), m.Observed((answers,), 25.0), policy=policy)
    assert a.SpawnStandIn() not in plan(policy, fleet, 100.0), "one at a time"
    fleet = told(fleet, m.StandInGone(101.0, 8), m.Observed((), 101.0), policy=policy)
    assert a.SpawnStandIn() in plan(policy, fleet, 110.0)
