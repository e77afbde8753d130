"""The policy of a pool that cannot surge: never more than so many children away, and everybody's turn comes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.fold import fold
from django_workerguard.policy.plan import plan
from django_workerguard.policy.view import Fleet, Policy, State
from tests.unit.fleets import Start, told

TICK = 0.5


def pool_policy(*, away: int, **options: object) -> Policy:
    return Policy(
        surge=0,
        away=away,
        answers=False,
        stand_in=False,
        timeout=0.0,
        worker_reload_mercy=float("inf"),
        min_worker_lifetime=0.0,
        load_concurrency=8,
        outlier="off",
        **options,
    )


class Pool:
    """Children that load and leave when the dice say so."""

    def __init__(self, policy: Policy, target: int) -> None:
        self.policy = policy
        self.fleet = Fleet(target=target)
        self.now = 0.0
        self.seats = 0
        self.due: dict[int, float] = {}  # when who loads has loaded, and who leaves has left, by seat
        self.spawned: list[int] = []

    def turn(self, loads: float, leaves: float) -> None:
        self.now += TICK
        for seat, at in list(self.due.items()):
            worker = self.fleet.workers[seat]
            if at > self.now:
                continue
            del self.due[seat]
            if worker.state is State.RETIRING:
                self.tell(m.Exited(seat, self.now))
            else:
                self.tell(m.Observed((m.Reading(seat, State.READY, 0),), self.now))
        for action in plan(self.policy, self.fleet, self.now):
            match action:
                case a.Spawn(slot, generation):
                    self.seats += 1
                    self.spawned.append(slot)
                    self.tell(m.Spawning(slot, self.seats, generation, 60.0, self.now))
                    self.tell(m.Spawned(self.seats, self.seats, self.now))
                    self.due[self.seats] = self.now + loads
                case a.Retire(seat, reason):
                    self.tell(m.Asked(seat, reason, self.now))
                    self.due[seat] = self.now + leaves
                case other:
                    raise AssertionError(other)

    def tell(self, message: m.Message) -> None:
        self.fleet = fold(self.policy, self.fleet, message)


DURATIONS = st.sampled_from([0.0, 0.4, 1.1, 3.0, 20.0])


@settings(max_examples=60, deadline=None)
@given(
    target=st.integers(1, 9),
    away=st.integers(1, 4),
    lifetime=st.sampled_from([1.0, 4.0, 30.0]),
    turns=st.lists(st.tuples(DURATIONS, DURATIONS), min_size=30, max_size=90),
)
def test_never_more_away_than_may_be_and_never_the_last(target, away, lifetime, turns):
    pool = Pool(pool_policy(away=away, max_worker_lifetime=lifetime), target)
    started = False
    for loads, leaves in turns:
        pool.turn(loads, leaves)
        started = started or pool.fleet.ready == target
        if started:
            assert target - pool.fleet.ready <= away
            assert pool.fleet.ready >= min(1, target - 1)


def test_all_come_due_at_once_and_every_one_has_its_turn():
    pool = Pool(pool_policy(away=1, max_worker_lifetime=5.0), 4)
    for _ in range(80):
        pool.turn(0.4, 0.4)
    assert {slot: pool.spawned.count(slot) >= 3 for slot in range(1, 5)} == dict.fromkeys(range(1, 5), True)


def test_nobody_is_told_to_answer_for_a_pool_that_cannot_load():
    """Tasks wait by themselves: there is no stand-in, and an unloaded child has no duty."""
    policy = pool_policy(away=1, need_app="off", load_retries=1)
    fleet = told(Fleet(target=1), Start(1, 0, 7, 60.0, 0.0), policy=policy)
    fleet = fold(policy, fleet, m.Observed((m.Reading(0, State.UNLOADED, 0),), 1.0))
    assert plan(policy, fleet, 20.0) == ()
