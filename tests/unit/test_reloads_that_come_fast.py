"""Reloads that come faster than a load, as from a deployment in a loop, do not keep a slot empty."""

from __future__ import annotations

import pytest

from django_workerguard.policy import message as m
from django_workerguard.policy.view import Fleet, Policy, State
from tests.unit.test_policy_properties import World

STEP = 0.25  # seconds


def first_ready(policy: Policy, *, load: float, every: float, dead: int, long: float = 200.0) -> float | None:
    """Return after how many seconds both slots have a ready worker again. None: they never had.

    So many of the two slots lose their worker, and the mold dies with them.
    """
    world = World(policy, Fleet(target=2))
    starts: dict[int, float] = {}

    def run_until(at: float, *, until_whole: bool) -> bool:
        while world.now < at:
            world.now += STEP
            for asked in list(world.forks):
                world.there(asked)
            for seat, state in list(world.said.items()):
                process = world.fleet.process(seat)
                if process is None or state is not State.LOADING:
                    continue
                takes = STEP if process.mold is not None else load
                if world.now - starts.setdefault(process.pid, world.now) >= takes:
                    world.said[seat] = State.READY if process.is_mold else State.LOADED
            for worker in (*world.fleet.workers.values(), *world.fleet.molds.values()):
                if worker.state is State.RETIRING:
                    world.exit(worker.seat, clean=True)
            world.turn()
            if until_whole and world.fleet.ready == 2:
                return True
        return False

    run_until(3 * load + 10, until_whole=True)
    assert world.fleet.ready == 2
    killed = world.now
    slots = range(1, dead + 1)
    for seat in [worker.seat for worker in world.fleet.workers.values() if worker.slot in slots]:
        world.exit(seat)
    for seat in list(world.fleet.molds):
        world.exit(seat)
    while world.now - killed < long:
        if run_until(world.now + every, until_whole=True):
            return world.now - killed
        world.tell(m.GenerationStarted(world.now, None))
    return None


@pytest.mark.parametrize("load", [2.0, 30.0, 60.0])
@pytest.mark.parametrize("dead", [1, 2])
@pytest.mark.parametrize("kind", ["lazy", "mold", "auto"])
def test_a_slot_has_a_worker_again_after_one_load_and_one_reload(kind, dead, load):
    policy = Policy(load=kind, load_concurrency=2, load_timeout=120.0, stand_in=False, load_retry_delay=0.1)
    every = 1.5
    took = first_ready(policy, load=load, every=every, dead=dead)
    assert took is not None
    assert took <= load + every + 3.0
