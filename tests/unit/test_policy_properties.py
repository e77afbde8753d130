"""The promises of the plan, over random fleets and histories, with a clock that is an argument."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.fold import fold
from django_workerguard.policy.mold import PATIENCE, loading
from django_workerguard.policy.plan import (
    ABORT_GRACE,
    COMING,
    FLUSH,
    PARK_GRACE,
    QUICK_MERCY,
    next_deadline,
    plan,
)
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.room import FIRST_WAIT, UNMEASURED, kind_of, need
from django_workerguard.policy.strikes import STABLE
from django_workerguard.policy.view import SERVING_OR_COMING, Fleet, Policy, Retry, State

UNLOADED_STAY = Policy(need_app="off", load_retries=1, load_concurrency=3, surge=0, stand_in=False)
STARTS = (a.Spawn, a.SpawnMold, a.Convert, a.SpawnStandIn, a.Duty, a.Admit)
pytestmark = pytest.mark.timeout(600)  # many examples, on a machine that may be busy

policies = st.builds(
    Policy,
    load=st.sampled_from(["lazy", "mold", "auto"]),
    need_app=st.sampled_from(["worker", "off"]),
    load_retries=st.integers(1, 4),
    load_retry_delay=st.floats(0.1, 2),
    load_retry_max_delay=st.floats(2, 30),
    load_timeout=st.sampled_from([0.0, 5.0]),
    load_concurrency=st.integers(1, 4),
    stand_in=st.booleans(),
    stand_in_after=st.sampled_from([0.0, 5.0]),
    worker_reload_mercy=st.floats(0, 10),
    timeout=st.sampled_from([0.0, 10.0]),
    surge=st.integers(0, 3),
    away=st.integers(1, 3),
    max_requests=st.sampled_from([0, 20]),
    max_requests_delta=st.integers(0, 5),
    max_requests_jitter=st.integers(0, 5),
    max_worker_lifetime=st.sampled_from([0.0, 5.0, 60.0]),
    max_worker_lifetime_delta=st.floats(0, 5),
    min_worker_lifetime=st.sampled_from([0.0, 10.0]),
    reload_on_rss=st.sampled_from([0, 200]),
    evil_reload_on_rss=st.sampled_from([0, 300]),
    outlier=st.sampled_from(["eject", "report", "off"]),
    outlier_latency=st.sampled_from(["eject", "report", "off"]),
    outlier_min_requests=st.integers(1, 50),
    request_timeout_action=st.sampled_from(["replace", "report"]),
    min_loaded=st.integers(1, 2),
    memory_margin=st.sampled_from([0, 50]),
)


@dataclass
class World:
    """A simulated machine: applies actions, and lets chance decide what becomes of every process."""

    policy: Policy
    fleet: Fleet
    now: float = 0.0
    beat: int = 1
    said: dict[int, State] = field(default_factory=dict)
    duty: dict[int, bool] = field(default_factory=dict)
    pids: int = 100
    spawned_at: dict[int, list[float]] = field(default_factory=dict)
    counts: dict[int, list[int]] = field(default_factory=dict)  # requests, errors, memory errors, rss
    hanging: dict[int, tuple[str, ...]] = field(default_factory=dict)  # by seat: requests that never end
    killed_at: list[float] = field(default_factory=list)  # by evil-reload-on-rss
    free: int | None = None  # memory that is left
    seen: list[tuple[Fleet, float, tuple[a.Action, ...]]] = field(default_factory=list)
    forks: dict[int, int] = field(default_factory=dict)  # by seat of a worker that is asked for: its mold's
    converted: set[int] = field(
        default_factory=set
    )  # pids of workers that were molds, and have loaded as such
    frozen: set[int] = field(default_factory=set)  # seats of processes that do nothing and cannot be killed
    given_up: Reason | None = None
    halted: int | None = None

    def tell(self, message: m.Message) -> None:
        self.fleet = fold(self.policy, self.fleet, message)

    def turn(self) -> tuple[a.Action, ...]:
        self.beat += 1
        readings = [
            m.Reading(
                *(
                    seat,
                    state,
                    1 if seat in self.frozen else self.beat,
                    self.duty.get(seat, False),
                    *self.counts[seat][:3],
                ),
                in_flight=len(self.hanging.get(seat, ())),
                overdue=self.hanging.get(seat, ()),
            )
            for seat, state in self.said.items()
        ]
        if self.fleet.stand_in.seat is not None:
            readings.append(m.Reading(self.fleet.stand_in.seat, None, self.beat, self.duty.get(999, False)))
        self.tell(m.Observed(tuple(readings), self.now))
        self.tell(m.Measured(tuple((seat, count[3]) for seat, count in self.counts.items()), self.now))
        self.tell(m.RoomMeasured(self.free, None))
        for worker in (*self.fleet.workers.values(), *self.fleet.molds.values()):
            if worker.state is State.READY and not worker.weighed:
                self.tell(m.Weighed(worker.seat, SIZES[kind_of(worker)]))
        for asked in [seat for seat, mold in self.forks.items() if self.fleet.molds[mold].not_ended]:
            self.not_there(asked, excused=True)
        actions = plan(self.policy, self.fleet, self.now)
        retired = [action.seat for action in actions if isinstance(action, a.Retire)]
        assert len(retired) == len(set(retired)), "no plan names a seat twice"
        self.seen.append((self.fleet, self.now, actions))
        for action in actions:
            self.apply(action)
        return actions

    def apply(self, action: a.Action) -> None:
        match action:
            case a.AwaitRoom(lacks):
                assert self.policy.memory_margin
                self.tell(m.RoomAwaited(lacks, self.now))
            case a.Spawn(slot, generation, load_timeout, _, reason, mold):
                self.assert_room(slot, "load" if mold is None else "fork")
                leaving = [worker for worker in self.fleet.workers.values() if worker.makes_room]
                assert not any(worker.slot == slot for worker in leaving), "its memory is not free yet"
                assert not (leaving and reason), "no load beside a worker while another makes room"
                under_way = self.fleet.of(*COMING)
                had_failed = self.seen[-1][0].load_failed  # when this was planned
                assert not (had_failed and under_way), "one load at a time once one has failed"
                if mold is not None:
                    assert self.fleet.molds[mold].generation == generation, "forked from its own generation"
                elif self.policy.load != "lazy":
                    by_itself = self.seen[-1][0].unfit or self.seen[-1][0].mold_record.strikes >= PATIENCE
                    assert by_itself or self.could_not_be_forked(slot, generation)
                    assert not (self.seen[-1][0].no_memory and loading(self.fleet)), (
                        "one load in want of memory"
                    )
                incumbent = self.fleet.incumbent(slot)
                if incumbent is not None and incumbent.generation < generation and self.policy.load != "lazy":
                    rolls = mold is not None or self.fleet.unfit or self.fleet.proven
                    rolls = rolls or self.could_not_be_forked(slot, generation)
                    assert rolls, "a reload rolls only after its mold is ready"
                seat = self.free_seat()
                self.tell(m.Spawning(slot, seat, generation, load_timeout, self.now, reason, mold))
                self.spawned_at.setdefault(slot, []).append(self.now)
                if mold is None:
                    self.there(seat)
                else:
                    self.forks[seat] = mold
            case a.SpawnMold(generation, load_timeout):
                assert self.policy.load != "lazy"
                self.assert_room(0, "mold")
                assert generation == self.fleet.generation
                there = {mold.generation for mold in self.fleet.molds.values() if not mold.not_ended}
                assert generation not in there, "one each"
                if self.fleet.no_memory:
                    assert not self.fleet.of(State.LOADING), "one load at a time in want of memory"
                seat = self.free_seat()
                self.pids += 1
                self.tell(m.MoldSpawned(seat, self.pids, generation, load_timeout, self.now))
                self.said[seat] = State.LOADING
                self.counts[seat] = [0, 0, 0, 100]
            case a.Convert(seat, slot, reason):
                assert self.policy.load == "auto"
                self.converted.add(self.fleet.molds[seat].pid)
                self.tell(m.Converted(seat, slot, self.now, reason))
                self.said[seat] = State.LOADING
                self.spawned_at.setdefault(slot, []).append(self.now)
            case a.SpawnStandIn():
                self.tell(m.StandInSpawned(999, 99, self.now))
                self.duty[999] = False
            case a.Admit(seat):
                lost = {worker.seat for worker in self.fleet.workers.values() if worker.not_ended}
                duties = [on for seat, on in self.duty.items() if seat not in lost]
                assert not any(duties), "nobody answers 503 once a worker is admitted"
                self.tell(m.Admitted(seat, self.now))
                if seat in self.said:
                    self.said[seat] = State.READY
            case a.Duty(seat, on):
                if seat != 999 and seat not in self.fleet.workers:
                    return  # killed a moment before, in the same plan
                if on:
                    assert not self.fleet.ready, "nobody answers 503 while a worker is ready"
                self.tell(m.DutySet(seat, on, self.now))
                self.duty[seat] = on
            case a.Retire(seat, reason, quick, makes_room):
                worker = self.fleet.workers.get(seat)
                if seat in self.fleet.molds:
                    self.tell(m.Asked(seat, reason, self.now, quick))
                    return
                if worker is None:
                    return  # killed a moment before, in the same plan
                ready = self.fleet.ready
                self.tell(m.Asked(seat, reason, self.now, quick, makes_room))
                if reason.rule is Rule.STOP:
                    return
                if makes_room:
                    assert self.fleet.ready >= max(1, self.policy.min_loaded), "the last one is not given up"
                elif self.policy.surge:
                    assert self.fleet.ready >= min(ready, self.fleet.target), "planned change costs capacity"
            case a.Abort(seat, reason):
                self.tell(m.Aborted(seat, reason, self.now))
            case a.Kill(seat, _, True):
                assert self.fleet.ready > 1, "the last that is ready is never killed"
                if self.killed_at:
                    assert self.now - self.killed_at[-1] >= self.policy.min_worker_lifetime
                self.killed_at.append(self.now)
                self.tell(m.Killed(seat, Reason(Rule.EVIL_RELOAD_ON_RSS), self.now, evil=True))
                if seat not in self.frozen:
                    self.exit(seat)
            case a.Kill(seat, reason):
                if seat == 999:
                    self.tell(m.StandInGone(self.now))
                elif seat in self.frozen:
                    self.tell(m.Killed(seat, reason, self.now))
                else:
                    self.exit(seat)
            case a.Reload():
                assert self.fleet.refusal
                assert self.fleet.refusal.retry is not Retry.NEVER
                self.tell(m.ReloadBegun(retry=True))
            case a.CloseListeners():
                self.tell(m.ListenersClosed(self.now))
            case a.GiveUp(code, reason):
                assert not self.policy.never_give_up
                self.given_up = reason
                self.tell(m.StopAsked(self.now, exit_code=code, reason=reason))
            case a.Halt(code):
                assert not self.fleet.workers, "nobody is left behind"
                self.halted = code

    def assert_room(self, slot: int, kind: str) -> None:
        """A process that starts has room beside those that load, or nothing else loads and it has waited, or nobody serves.

        Two of a kind that has not been measured begin together only if there is plenty of memory.
        """
        if not self.policy.memory_margin or self.free is None:
            return
        workers = self.fleet.of(State.SPAWNING, State.LOADING, State.LOADED)
        loading_now = [one for one in (*workers, *loading(self.fleet)) if one.pid not in self.converted]
        if not need(self.fleet, kind):
            young = [one for one in loading_now if self.now - one.spawned < FIRST_WAIT]
            unmeasured = [one for one in young if not need(self.fleet, kind_of(one))]
            assert not unmeasured or self.free >= UNMEASURED * (len(unmeasured) + 1)
            return
        taken = sum(need(self.fleet, kind_of(one)) for one in loading_now)
        if self.free >= taken + need(self.fleet, kind) + self.policy.memory_margin:
            return
        assert not loading_now, "what has no room is not started beside a load"
        waiting = self.seen[-1][0].waiting.get(slot)
        assert not self.seen[-1][0].ready or (waiting and self.now >= waiting.next_try), "it has to wait"

    def free_seat(self) -> int:
        return next(n for n in range(900) if n not in self.fleet.workers and n not in self.fleet.molds)

    def there(self, seat: int) -> None:
        """A process that was asked for has started."""
        self.forks.pop(seat, None)
        self.pids += 1
        self.tell(m.Spawned(seat, self.pids, self.now))
        self.said[seat] = State.LOADING
        self.counts[seat] = [0, 0, 0, 100]

    def not_there(self, seat: int, *, excused: bool, memory: bool = False) -> None:
        del self.forks[seat]
        self.tell(m.SpawnFailed(self.fleet.workers[seat].slot, self.now, seat, excused, memory))

    def could_not_be_forked(self, slot: int, generation: int) -> bool:
        """Say whether a mold has proved that the generation can be loaded, and often could not fork this slot's worker."""
        molds = self.fleet.molds.values()
        proved = any(mold.state is State.READY and mold.generation == generation for mold in molds)
        return proved and self.fleet.record(slot).not_forked >= PATIENCE

    def exit(self, seat: int, *, clean: bool = False, transient: bool = True, memory: bool = False) -> None:
        if seat in self.forks:
            self.there(seat)
        for asked in [asked for asked, mold in self.forks.items() if mold == seat]:
            self.not_there(asked, excused=True)
        self.said.pop(seat, None)
        self.counts.pop(seat, None)
        self.hanging.pop(seat, None)
        self.frozen.discard(seat)
        self.duty.pop(seat, None)
        self.tell(m.Exited(seat, self.now, clean=clean, transient=transient, memory=memory))


chances = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "load",
                "fail",
                "starve",
                "die",
                "leave",
                "reload",
                "refuse",
                "recycle",
                "scale",
                "wait",
                "stay",
                "refork",
                "serve",
                "err",
                "grow",
                "quit",
                "hang",
                "freeze",
                "mold-ready",
                "mold-unfit",
                "mold-fails",
                "mold-starves",
                "mold-dies",
                "mold-freezes",
                "mold-forks",
                "mold-forks-not",
                "memory",
            ]
        ),
        st.integers(0, 30),
        st.floats(0.05, 12),
    ),
    max_size=60,
)


def chance(world: World, what: str, which: int) -> None:
    """Let something happen to one process, or to the server."""
    workers = sorted(world.fleet.workers.values(), key=lambda w: w.ordinal)
    worker = workers[which % len(workers)] if workers else None
    match what:
        case "reload":
            world.tell(m.GenerationStarted(world.now, which % 6 + 1 if which % 2 else None))
        case "refuse":
            world.tell(m.ReloadRefused("no settings", world.now, list(Retry)[which % 3]))
        case "recycle":
            world.tell(m.RecycleAsked(which % world.fleet.target + 1, Reason(Rule.BY_HAND)))
        case "scale":
            world.tell(m.TargetChanged(which % 6 + 1))
        case "memory":
            world.free = 20 * which if which else None
        case "refork":
            world.tell(m.SpawnFailed(which % world.fleet.target + 1, world.now))
        case "mold-forks" | "mold-forks-not" if world.forks:
            seat = sorted(world.forks)[which % len(world.forks)]
            if world.forks[seat] in world.frozen:
                return
            world.there(seat) if what == "mold-forks" else world.not_there(
                seat, excused=which % 3 == 1, memory=which % 3 == 2
            )
        case "mold-ready" | "mold-unfit" | "mold-fails" | "mold-starves" | "mold-dies" | "mold-freezes":
            mold_chance(world, what, which)
        case _ if worker is None or worker.state is State.SPAWNING:
            pass
        case "freeze":
            world.frozen.add(worker.seat)
        case "die":
            world.exit(worker.seat)
        case "leave" if worker.state is State.RETIRING and worker.killed is None:
            world.exit(worker.seat, clean=True)
        case _ if worker.seat in world.frozen:
            pass
        case "load" if world.said[worker.seat] is State.LOADING:
            world.said[worker.seat] = State.LOADED
        case "fail" if world.said[worker.seat] in (State.LOADING, State.LOADED):
            world.exit(worker.seat, transient=bool(which % 2))
        case "stay" if world.said[worker.seat] is State.LOADING and world.policy.need_app == "off":
            world.said[worker.seat] = State.UNLOADED
        case "starve" if world.said[worker.seat] in (State.LOADING, State.LOADED):
            world.exit(worker.seat, memory=True)
        case "serve":
            world.counts[worker.seat][0] += which
        case "err":
            world.counts[worker.seat][0] += which
            world.counts[worker.seat][1] += which
            world.counts[worker.seat][2] += which % 2
        case "grow":
            world.counts[worker.seat][3] += 10 * which
        case "hang" if world.said[worker.seat] is State.READY:
            world.hanging[worker.seat] = (*world.hanging.get(worker.seat, ()), "GET /slow")
        case "quit" if world.said[worker.seat] is State.READY:
            world.said[worker.seat] = State.RETIRING


def mold_chance(world: World, what: str, which: int) -> None:
    molds = sorted(world.fleet.molds)
    if not molds:
        return
    seat = molds[which % len(molds)]
    loads = world.said[seat] is State.LOADING and seat not in world.frozen
    match what:
        case "mold-freezes":
            world.frozen.add(seat)
        case "mold-ready" if loads:
            world.said[seat] = State.READY
        case "mold-unfit" if loads or (world.said[seat] is State.READY and seat not in world.frozen):
            world.said[seat] = State.UNFIT
        case "mold-fails" if loads:
            world.exit(seat, transient=bool(which % 2))
        case "mold-starves" if loads:
            world.exit(seat, memory=True)
        case "mold-dies":
            ready = world.fleet.ready
            world.exit(seat)
            assert world.fleet.ready == ready, "a mold that dies costs no ready worker"


def go_on(world: World, frozen: Iterable[int] = ()) -> None:
    """Let everything that loads become loaded, every fork succeed and every process leave that was asked to.

    ``frozen``: the seats of the processes that do nothing, and cannot be killed.
    """
    world.frozen = set(frozen)
    for seat, mold in list(world.fleet.molds.items()):
        if seat in world.frozen:
            continue
        if mold.state is State.RETIRING:
            world.exit(seat, clean=True)
        elif world.said[seat] is State.LOADING:
            world.said[seat] = State.READY
    for seat in [seat for seat, mold in world.forks.items() if mold not in world.frozen]:
        world.there(seat)
    for seat, worker in list(world.fleet.workers.items()):
        if seat in world.frozen or seat in world.forks:
            continue
        if worker.state is State.RETIRING:
            world.exit(seat, clean=True)
        elif world.said[seat] is State.LOADING:
            world.said[seat] = State.LOADED


def end_unloaded(world: World) -> None:
    """End the workers that stay unloaded, as need-app=off has it: nothing else replaces them."""
    for worker in world.fleet.of(State.UNLOADED):
        world.exit(worker.seat)


MOLDS_IN_ORDER = ("mold-ready", "mold-dies", "mold-forks")
SIZES = {"load": 100, "fork": 20, "mold": 120}


def simulate(policy: Policy, target: int, history: list[tuple[str, int, float]]) -> World:
    world = World(replace(policy, never_give_up=True), Fleet(target=target))
    world.turn()
    for what, which, wait in history:
        chance(world, what, which)
        world.now += wait
        world.turn()
        check_invariants(world)
    return world


def check_invariants(world: World) -> None:
    policy, fleet = world.policy, world.fleet
    coming = [w for w in fleet.workers.values() if w.state in SERVING_OR_COMING]
    inside = [w for w in coming if w.slot <= fleet.target]
    assert len(inside) <= fleet.target + policy.surge, (
        "workers that serve or are coming exceed target + surge"
    )
    for slot in range(1, fleet.target + 1):
        assert len(fleet.in_slot(slot)) <= 2, "a slot holds an incumbent and a successor, no more"
    if policy.surge:
        beside = [slot for slot in range(1, fleet.target + 1) if fleet.successor(slot) is not None]
        assert len(beside) <= policy.surge, "one budget for every reason"
    assert len(fleet.of(State.SPAWNING, State.LOADING)) <= max(1, policy.load_concurrency)
    for slot in {worker.slot for worker in fleet.workers.values()}:
        lost = [worker for worker in fleet.all_in_slot(slot) if worker.not_ended]
        assert len(lost) <= 1, (
            "one process that cannot be killed beside the others, so that the seats suffice"
        )
    assert sum(mold.not_ended for mold in fleet.molds.values()) <= 1
    generations = [mold.generation for mold in fleet.molds.values() if not mold.not_ended]
    assert len(generations) == len(set(generations)), "one mold per generation"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, st.integers(1, 6), chances)
@example(  # a mold became a worker and left the second fork that it was asked for unanswered for ever
    Policy(load="auto", load_concurrency=2, stand_in=False),
    2,
    [("mold-ready", 0, 1.0), ("mold-unfit", 0, 1.0), ("mold-forks-not", 0, 1.0), ("wait", 0, 1.0)],
)
@example(  # a mold that was killed for its late fork was made a worker at the same time
    Policy(load="auto", load_concurrency=2, surge=0, load_timeout=0.0, timeout=0.0, stand_in=False),
    2,
    [("mold-ready", 0, 1.0), ("mold-unfit", 0, 1.0), ("mold-forks-not", 0, 5.0)],
)
def test_invariants_hold_over_random_histories(policy, target, history):
    simulate(policy, target, history)


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), chances)
@example(  # a slot above the target left while another one had two ready workers
    Policy(load="mold", load_concurrency=2),
    3,
    [("reload", 0, 1.0), ("reload", 1, 1.0), ("mold-ready", 0, 1.902845457861207), ("load", 0, 5.0)],
)
def test_it_heals_when_the_cause_is_gone(policy, target, history):
    world = simulate(policy, target, history)
    world.free = None
    most = 0
    for number in range(200):
        go_on(world)
        end_unloaded(world)
        world.now += 1.0
        world.turn()
        most = max(most, world.fleet.ready if number >= 100 else 0)
    if policy.surge or not policy.max_worker_lifetime:
        assert world.fleet.ready == world.fleet.target
    else:
        assert world.fleet.ready >= world.fleet.target - policy.away, "no more are away"
        assert most == world.fleet.target or policy.max_worker_lifetime <= 3 * world.fleet.target, (
            "and comes back"
        )
    assert {worker.generation for worker in world.fleet.of(State.READY)} <= {world.fleet.generation}
    assert not any(world.duty.values()), "who stood in has stopped"


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), chances)
def test_a_fleet_that_has_healed_is_left_alone(policy, target, history):
    policy = replace(policy, max_worker_lifetime=0.0, max_requests=0, reload_on_rss=0, evil_reload_on_rss=0)
    world = simulate(policy, target, history)
    world.free = None
    world.hanging.clear()
    for _ in range(300):
        go_on(world)
        end_unloaded(world)
        world.now += 1.0
        world.turn()
    assert world.fleet.is_rolled
    assert not world.fleet.reloading
    for _ in range(20):
        go_on(world)
        world.now += 30.0 if not policy.timeout else 1.0
        assert world.turn() == ()


@settings(max_examples=60, deadline=None)
@given(policies, policies, st.integers(1, 6), chances, chances)
@example(UNLOADED_STAY, UNLOADED_STAY, 3, [("stay", 0, 1.0), ("stay", 1, 1.0), ("load", 2, 1.0)], [])
@example(UNLOADED_STAY, UNLOADED_STAY, 3, [("stay", 0, 1.0), ("stay", 1, 1.0), ("stay", 2, 1.0)], [])
def test_a_reload_with_other_options_comes_to_an_end(before, after, target, history, later):
    """Whatever was under way under the options before, and whatever happens after."""
    world = simulate(before, target, history)
    world.tell(m.GenerationStarted(world.now))
    world.policy = replace(
        after,
        never_give_up=True,
        max_worker_lifetime=0.0,
        max_requests=0,
        reload_on_rss=0,
        evil_reload_on_rss=0,
    )
    for what, which, wait in later:
        chance(world, what, which)
        world.now += wait
        world.turn()
    world.free = None
    world.hanging.clear()
    world.tell(m.GenerationStarted(world.now))
    for _ in range(300):
        go_on(world)
        world.now += 1.0
        world.turn()
    assert world.fleet.is_rolled, "also if need-app=off has left workers unloaded"


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), st.sampled_from(["fails", "loads", "is unfit"]), st.booleans())
@example(Policy(load="auto", surge=0, load_concurrency=2, stand_in=False), 1, "is unfit", False)
@example(Policy(load="mold", load_concurrency=2, stand_in=False), 2, "fails", False)
def test_a_generation_that_cannot_be_loaded_costs_at_most_the_first_that_tries_it(
    policy, target, the_mold, transient
):
    """Its loads fail, also those of workers that are forked from its mold. Then the code is mended."""
    lazy = policy.load == "lazy"
    policy = replace(policy, max_worker_lifetime=0.0, max_requests=0, load_timeout=0.0)
    policy = replace(policy, need_app="worker" if lazy else "server")
    world = World(policy, Fleet(target=target))
    for _ in range(40):
        go_on(world)
        world.now += 0.5
        world.turn()
    assert world.fleet.is_rolled
    world.tell(m.GenerationStarted(world.now))
    empty_since = {}
    killed = -5
    for number in range(600):
        old = [worker for worker in world.fleet.of(State.READY) if world.now - worker.ready_at >= STABLE]
        if number % 50 == 49 and old and not lazy:
            world.exit(old[0].seat)
            killed = number
        newest = world.fleet.generation
        for seat, mold in list(world.fleet.molds.items()):
            if mold.generation == newest and mold.state is State.LOADING and the_mold == "fails":
                world.exit(seat, transient=transient)
            elif mold.generation == newest and mold.state is State.LOADING and the_mold == "is unfit":
                world.said[seat] = State.UNFIT
        for seat, worker in list(world.fleet.workers.items()):
            if worker.generation == newest:
                world.exit(seat, transient=transient)
        go_on(world)
        world.now += 0.5
        world.turn()
        check_invariants(world)
        before = world.seen[-1][0]
        ready = {worker.slot: worker.generation for worker in before.of(State.READY)}
        assert newest not in ready.values()
        assert len(ready) >= target - (not policy.surge) - (number - killed < 5)
        empty_since = {
            slot: empty_since.get(slot, world.now) for slot in range(1, target + 1) if slot not in ready
        }
        if not lazy:
            assert all(world.now - since <= 2.0 for since in empty_since.values()), (
                "the old mold has the code that serves"
            )
    assert world.given_up is None
    for _ in range(400):
        go_on(world)
        world.now += 0.5
        world.turn()
    assert world.fleet.is_rolled


@pytest.mark.parametrize("need_app", ["worker", "off"])
@pytest.mark.parametrize("surge", [0, 1])
@pytest.mark.parametrize("target", [1, 2])
@pytest.mark.parametrize("history", [(0, 3, True), (0, 3, False), (1, 60, True), (2, 0, True), (2, 60, True)])
def test_code_that_can_be_loaded_is_found_whatever_cannot(need_app, surge, target, history):
    """Some generations become ready, the next one cannot be loaded, and a reload begins the last one, which can.

    ``history``: the number of generations that become ready; the turns in which nothing can be loaded, as while a database
    is away; and whether the mold can be loaded even where a worker cannot.
    """
    served, outage, mold_loads = history
    policy = Policy(load="mold", need_app=need_app, surge=surge, load_concurrency=2, stand_in=False)
    policy = replace(policy, never_give_up=True, load_timeout=0.0, timeout=0.0)
    world = World(policy, Fleet(target=target))

    def turns(number: int, *good: int) -> None:
        for _ in range(number):
            for seat, mold in list(world.fleet.molds.items()):
                if mold.generation not in good and mold.state is State.LOADING and not mold_loads:
                    world.exit(seat)
            stays = (
                {one.slot for one in world.seen[-1][2] if isinstance(one, a.Spawn) and one.stay}
                if world.seen
                else ()
            )
            unloaded = {worker.seat for worker in world.fleet.of(State.UNLOADED)}
            for seat, worker in list(world.fleet.workers.items()):
                if worker.generation in good or worker.state not in (State.SPAWNING, State.LOADING):
                    continue
                if worker.slot in stays:
                    if seat in world.forks:
                        world.there(seat)
                    world.said[seat] = State.UNLOADED
                    unloaded.add(seat)
                else:
                    world.exit(seat)
            go_on(world, unloaded)
            world.frozen.clear()
            world.now += 0.5
            world.turn()

    for generation in range(1, served + 1):
        turns(60, generation)
        world.tell(m.GenerationStarted(world.now))
    turns(20)
    world.tell(m.GenerationStarted(world.now))
    for worker in world.fleet.of(State.READY)[:outage]:
        world.exit(worker.seat)
    turns(outage)
    end_unloaded(world)
    starts = sum(len(times) for times in world.spawned_at.values())
    turns(int(4 * (policy.load_retry_max_delay + 2) * (target + 2)), world.fleet.generation)
    assert world.fleet.is_rolled
    starts = sum(len(times) for times in world.spawned_at.values()) - starts
    assert starts <= 12 * target + 12, "no churn"


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), st.lists(st.floats(0.1, 20), max_size=4))
@example(Policy(load="mold", load_concurrency=1, stand_in=False), 2, [1.5])
def test_code_that_hangs_is_taken_away_by_a_reload_though_nothing_limits_its_load(policy, target, waits):
    """No load ends by itself, and several reloads do not help. Then the code is mended."""
    policy = replace(policy, max_worker_lifetime=0.0, max_requests=0, load_timeout=0.0, need_app="worker")
    world = World(policy, Fleet(target=target))
    for wait in (0.5, *waits):
        for _ in range(max(1, int(2 * wait))):
            for seat in [seat for seat, mold in world.forks.items() if mold not in world.frozen]:
                world.there(seat)
            world.now += 0.5
            world.turn()
            check_invariants(world)
        world.tell(m.GenerationStarted(world.now))
    for _ in range(200):
        hangs = {
            one.seat
            for one in (*world.fleet.workers.values(), *world.fleet.molds.values())
            if one.generation < world.fleet.generation
        }
        go_on(world, hangs)
        world.frozen.clear()  # they hang, but can be killed
        world.now += 0.5
        world.turn()
        check_invariants(world)
    assert world.fleet.is_rolled


@settings(max_examples=40, deadline=None)
@given(policies, st.integers(1, 6), st.booleans())
def test_failing_loads_are_bounded_by_the_back_off_and_starve_no_slot(policy, target, transient):
    world = World(
        replace(policy, never_give_up=True, load_timeout=0.0, need_app="worker"), Fleet(target=target)
    )
    for _ in range(1200):
        world.turn()
        for seat in (*world.fleet.workers, *world.fleet.molds):
            world.exit(seat, transient=transient)
        world.now += 0.5
    longest = policy.load_retry_max_delay
    for slot in range(1, target + 1):
        times = world.spawned_at[slot]
        waits = [later - earlier for earlier, later in pairwise(times[6:])]
        assert len(times) >= 600 / (longest + 0.5 * target + 1) / 2, "every slot gets its tries"
        assert all(wait >= policy.load_retry_delay / 2 for wait in waits), "no try comes before its back-off"


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), chances)
@example(
    Policy(need_app="off", load_retries=1, stand_in=False, surge=0),
    1,
    [("fail", 0, 1.0), ("load", 0, 1.0), ("stay", 0, 1.0)],
)
@example(  # workers of the old generation left for the new one, and came back from the old mold for ever
    Policy(load="mold", load_concurrency=2, surge=0, stand_in=False, load_retry_max_delay=2.0),
    2,
    [("reload", 0, 1.0)],
)
def test_processes_that_cannot_be_killed_keep_no_slot_empty(policy, target, history):
    policy = replace(policy, timeout=10.0, load_timeout=5.0, max_worker_lifetime=0.0, max_requests=0)
    world = simulate(replace(policy, reload_on_rss=0, evil_reload_on_rss=0), target, history)
    processes = [*world.fleet.workers.values(), *world.fleet.molds.values()]
    # of each slot one, which is lost if one is
    stuck = {one.slot: one.seat for one in sorted(processes, key=lambda one: one.not_ended) if one.pid}
    for _ in range(400):
        there = {*world.fleet.workers, *world.fleet.molds}
        go_on(world, there.intersection(stuck.values()))
        world.now += 0.5
        world.turn()
        check_invariants(world)
    assert world.fleet.ready == world.fleet.target
    assert {worker.generation for worker in world.fleet.of(State.READY)} == {world.fleet.generation}


shortages = st.lists(
    st.tuples(
        st.sampled_from([*("memory", "die", "load") * 3, "reload", "recycle", *MOLDS_IN_ORDER]),
        st.integers(0, 20),
        st.floats(0.05, 3),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(policies, st.integers(2, 6), shortages)
def test_what_does_not_fit_into_the_memory_waits(policy, target, history):
    """`World.assert_room` holds for each start, from a fleet that serves and was measured."""
    policy = replace(policy, memory_margin=50, never_give_up=True)
    world = World(policy, Fleet(target=target))
    for _ in range(4 * target):
        go_on(world)
        world.now += 0.2
        world.turn()
    for what, which, wait in history:
        chance(world, what, which)
        world.now += wait
        world.turn()
        check_invariants(world)


@settings(max_examples=25, deadline=None)
@given(policies, st.integers(1, 6), chances, st.integers(0, 200))
def test_a_measure_of_memory_that_never_shows_room_starves_no_slot_and_no_reload(
    policy, target, history, free
):
    """What waits is tried even so, within the longest back-off, one at a time."""
    policy = replace(policy, memory_margin=50, load_timeout=0.0, max_worker_lifetime=0.0, max_requests=0)
    policy = replace(policy, reload_on_rss=0, evil_reload_on_rss=0, request_timeout_action="report")
    world = simulate(policy, target, history)
    world.free = free
    for _ in range(2):  # a load, or an end, takes no longer than half a second
        world.tell(m.GenerationStarted(world.now))
        for _ in range(2 * int((policy.load_retry_max_delay + 3) * (world.fleet.target + 2))):
            go_on(world)
            for seat in [worker.seat for worker in world.fleet.of(State.UNLOADED)]:
                world.exit(seat)
            world.now += 0.5
            world.turn()
        assert world.fleet.ready == world.fleet.target
        assert world.fleet.is_rolled


@settings(max_examples=100, deadline=None)
@given(policies, st.integers(1, 6), st.floats(0, 1e9))
def test_a_fleet_seen_again_after_any_sleep_of_its_own_clock_is_left_alone(policy, target, start):
    policy = replace(policy, never_give_up=True, max_worker_lifetime=0.0)
    world = World(policy, Fleet(target=target), now=start)
    for _ in range(40):
        go_on(world)
        world.turn()
        world.now += 0.2
    assert world.fleet.ready == target
    # the awake clock grows by at most two seconds however long the arbiter slept
    world.now += 2.0
    assert world.turn() == ()


@settings(max_examples=100, deadline=None)
@given(policies, st.integers(1, 6), chances, st.floats(0.01, 0.99))
def test_no_process_is_due_before_the_next_deadline(policy, target, history, part):
    """The arbiter sleeps until then, and a second at most: what bounds an end may come with the tick after."""
    world = simulate(replace(policy, never_give_up=True), target, history)
    if plan(world.policy, world.fleet, world.now):
        return
    deadline = next_deadline(world.policy, world.fleet, world.now)
    before = world.now + part * min(deadline - world.now, 1e6)
    starts = [one for one in plan(world.policy, world.fleet, before) if isinstance(one, STARTS)]
    assert not starts


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), chances)
def test_recorded_views_replay_to_the_same_actions(policy, target, history):
    world = simulate(policy, target, history)
    for fleet, now, actions in pickle.loads(pickle.dumps(world.seen)):
        assert plan(world.policy, fleet, now) == actions


@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(policies, st.integers(1, 6), st.sampled_from([5.0, 20.0]))
def test_workers_that_are_always_due_are_replaced_in_turn(policy, target, lifetime):
    """No slot is starved by the others, however often they come due."""
    policy = replace(
        policy,
        never_give_up=True,
        max_worker_lifetime=lifetime,
        max_worker_lifetime_delta=0.0,
        load_timeout=0.0,
    )
    world = World(policy, Fleet(target=target))
    for _ in range(400):
        go_on(world)
        world.now += 0.5
        world.turn()
        check_invariants(world)
    spawns = [len(world.spawned_at[slot]) for slot in range(1, target + 1)]
    assert min(spawns) >= 3, "each comes to its turn"
    assert max(spawns) - min(spawns) <= 2, "none comes more often than the others"


def test_a_fleet_that_came_due_while_the_arbiter_slept_is_replaced_within_the_budget():
    policy = Policy(never_give_up=True, load_concurrency=8, max_worker_lifetime=60.0, stand_in=False)
    world = World(policy, Fleet(target=4))
    for _ in range(10):
        go_on(world)
        world.now += 0.2
        world.turn()
    world.now += 120.0
    spawns = [action for action in world.turn() if isinstance(action, a.Spawn)]
    assert len(spawns) == 1


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, st.integers(1, 6), chances, st.booleans(), st.sampled_from([0.0, 3.0]))
def test_every_stop_ends_within_its_mercy_whatever_the_workers_do(policy, target, history, quick, drain):
    """Nobody leaves by itself, nobody listens to SIGTERM: only SIGKILL ends anybody."""
    world = simulate(replace(policy, drain_delay=drain, timeout=0.0), target, history)
    world.frozen.clear()
    for process in (*world.fleet.workers.values(), *world.fleet.molds.values()):
        if process.killed is not None:  # what it was frozen in is over
            world.exit(process.seat)
    world.tell(m.StopAsked(world.now, quick))
    bound = (
        world.now
        + drain
        + max(policy.worker_reload_mercy, QUICK_MERCY)
        + max(ABORT_GRACE + FLUSH, PARK_GRACE)
        + 3.0
    )
    while world.halted is None:
        assert world.now < bound, "it does not end"
        world.now += 0.5
        world.turn()
    spawned_after = [at for times in world.spawned_at.values() for at in times if at > bound]
    assert spawned_after == []
    assert world.halted == 0


@settings(max_examples=100, deadline=None)
@given(policies, st.integers(1, 4), st.sampled_from(["worker", "server"]), st.booleans())
def test_it_gives_up_when_need_app_says_so_and_never_before(policy, target, need_app, ready_once):
    policy = replace(policy, need_app=need_app, load_timeout=0.0, timeout=0.0, surge=max(1, policy.surge))
    world = World(policy, Fleet(target=target))
    if ready_once:
        for _ in range(20 * target):
            world.turn()
            go_on(world)
            world.now += 0.2
        assert world.fleet.ready == target
    for _ in range(1500):
        mold_failures = world.fleet.mold_record.failures
        before = [max(mold_failures, world.fleet.record(slot).failures) for slot in range(1, target + 1)]
        world.turn()
        if world.given_up:
            break
        for seat in (*world.fleet.workers, *world.fleet.molds):
            world.exit(seat)
        world.now += 0.5
    used_up = [failures >= policy.load_retries for failures in before]
    if need_app == "server":
        assert any(used_up)
        assert world.given_up.text.endswith("(need-app=server)")
    elif ready_once:
        assert not world.given_up, "it was ready once: it is tried for ever"
    else:
        assert all(used_up)
        assert world.given_up.text.endswith("(need-app=worker)")


@settings(max_examples=60, deadline=None)
@given(policies, st.integers(1, 6), chances, st.lists(st.integers(0, 59), max_size=8))
def test_an_arbiter_that_is_suspended_again_and_again_aborts_nobody_that_goes_on(
    policy, target, history, sleeps
):
    """Its clock counts two seconds of a sleep at most, and whoever is alive has beaten by the time that it looks."""
    world = World(
        replace(policy, never_give_up=True, load_timeout=0.0, worker_reload_mercy=1e9), Fleet(target=target)
    )
    world.turn()
    for number, (what, which, wait) in enumerate(history):
        if what != "freeze":
            chance(world, what, which)
        world.now += 2.0 if number in sleeps else min(wait, 2.0)
        actions = world.turn()
        assert not [one for one in actions if isinstance(one, a.Abort) and one.reason.rule is Rule.TIMEOUT]
