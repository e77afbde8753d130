"""The decisions: from the state of the fleet to a list of actions. Pure: same input, same output.

Called by the arbiter on every tick and wake-up. Its promises are held by property tests:
its own retirements never take ready workers below the target, workers that serve or are
coming never exceed target + surge, loads are bounded by the back-off, a slot is never
starved.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from django_workerguard.errors import ExitCode
from django_workerguard.policy import mold
from django_workerguard.policy.action import (
    Abort,
    Action,
    Admit,
    AwaitRoom,
    CloseListeners,
    Convert,
    Duty,
    GiveUp,
    Halt,
    Kill,
    Reload,
    Retire,
    Spawn,
    SpawnStandIn,
)
from django_workerguard.policy.backoff import load_timeout
from django_workerguard.policy.need_app import why_give_up
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.recycle import NO_ROOM, due_at, named, only_overdue, why_due, why_kill
from django_workerguard.policy.room import COMING, Budget, is_pressed
from django_workerguard.policy.strikes import may_be_taken_away
from django_workerguard.policy.view import Fleet, Policy, State, Stop, Worker

# seconds between a stack dump and SIGKILL: a machine that is short of memory is slow
ABORT_GRACE = 3.0
FLUSH = 2.0  # seconds that error reporters get after a failed load
END_GRACE = 1.0  # seconds that a process then has to end
QUICK_MERCY = 2.0  # seconds that a quick stop gives
KILL_AGAIN = 10.0  # seconds until SIGKILL is sent again to a process that the kernel has not ended
LAST_WAIT = 10.0  # seconds after every mercy until a stop no longer waits for a process that was killed
PARK_GRACE = 3.0  # seconds in which a process that answers 503 has to stop accepting
STILL_ANSWERS = Reason(Rule.DUTY, "it was ordered to stop accepting connections, and still accepts")


def plan(policy: Policy, fleet: Fleet, now: float) -> tuple[Action, ...]:
    """Return what to do now, in the order in which to do it."""
    stop = fleet.stop
    if stop is not None and (stop.quick or stop.exit_code or _is_drained(policy, fleet, now - stop.at)):
        return (*_overdue(policy, fleet, now), *_stopping(policy, fleet, stop, now))
    reason = None if stop else why_give_up(policy, fleet, now)
    if reason is not None:
        code = ExitCode.USAGE if reason.rule is Rule.UNFIT else ExitCode.LOAD_FAILED
        return (GiveUp(code, reason),)
    departures = tuple(_departures(policy, fleet, now))
    return (
        *_overdue(policy, fleet, now),
        *_duties(policy, fleet, now),
        *_admissions(fleet),
        *_emergency(policy, fleet, now),
        *departures,
        *mold.departures(policy, fleet, now),
        *_spawns(policy, fleet, now, making_room=any(leaving.makes_room for leaving in departures)),
        *_reload(fleet, now),
    )


def _is_drained(policy: Policy, fleet: Fleet, since: float) -> bool:
    """Return whether drain-delay is over and, if there is one, the connections that waited have been accepted.

    What is still in the backlog when the listeners close is reset. The workers get their mercy to empty it.
    """
    if since < policy.drain_delay:
        return False
    waits = policy.drain_delay and fleet.listening and fleet.backlog
    return not waits or since >= policy.drain_delay + policy.worker_reload_mercy


def next_deadline(policy: Policy, fleet: Fleet, now: float) -> float:
    """Return when something becomes due that no event announces, in the same clock."""
    times = [fleet.record(slot).next_try for slot in range(1, fleet.target + 1) if not fleet.in_slot(slot)]
    times.extend((fleet.canary_next_try, fleet.mold_record.next_try))
    if fleet.refusal is not None and fleet.refusal.next_try is not None:
        times.append(fleet.refusal.next_try)
    times.extend(waiting.next_try for waiting in fleet.waiting.values())
    loading = (*fleet.of(State.LOADING), *mold.loading(fleet))
    times.extend(w.spawned + w.load_timeout for w in loading if w.load_timeout)
    times.extend(w.spawned + mold.FORK_TIMEOUT for w in fleet.of(State.SPAWNING))
    times.extend(at for w in fleet.of(State.READY, State.UNLOADED) if (at := due_at(policy, w)) is not None)
    if fleet.nobody_ready_since is not None:
        times.append(fleet.nobody_ready_since + policy.stand_in_after)
    if fleet.stop is not None:
        times.append(fleet.stop.at + policy.drain_delay)
    return min((at for at in times if at > now), default=now + 1.0)


def _reload(fleet: Fleet, now: float) -> Iterator[Action]:
    """Try a refused reload again."""
    next_try = None if fleet.refusal is None else fleet.refusal.next_try
    if next_try is not None and now >= next_try and fleet.stop is None:
        yield Reload()


# every exit is bounded


def _overdue(policy: Policy, fleet: Fleet, now: float) -> Iterator[Action]:
    yield from mold.hung(fleet, now)
    for worker in _in_order((*fleet.workers.values(), *fleet.molds.values())):
        if worker.not_ended or (worker.killed is not None and now - worker.killed < KILL_AGAIN):
            continue
        if worker.aborted is None:
            yield from _past_its_time(policy, worker, now)
        elif now - worker.aborted > ABORT_GRACE:
            yield Kill(worker.seat, worker.reason or Reason(Rule.TIMEOUT))
    duty = fleet.stand_in
    if duty.killed is not None and now - duty.killed < KILL_AGAIN:
        return
    if duty.seat is not None and duty.on_duty and not duty.duty_wanted and now - duty.duty_since > PARK_GRACE:
        yield Kill(duty.seat, STILL_ANSWERS)


def _past_its_time(policy: Policy, worker: Worker, now: float) -> Iterator[Action]:
    match worker.state:
        case State.LOADING if worker.load_timeout and now - worker.spawned > worker.load_timeout:
            yield Abort(worker.seat, Reason(Rule.LOAD_TIMEOUT, f"{worker.load_timeout:g} s"))
        case State.FAILED if now - worker.since > FLUSH + END_GRACE:
            yield Kill(worker.seat, Reason(Rule.FAILED_LOAD, "the worker did not exit after its failed load"))
        case State.UNLOADED if (
            worker.on_duty and not worker.duty_wanted and now - worker.duty_since > PARK_GRACE
        ):
            yield Kill(worker.seat, STILL_ANSWERS)
        case State.LOADED if worker.admitted and policy.timeout and now - worker.beat_seen > policy.timeout:
            text = f"loaded, but not accepting after {policy.timeout:g} s"
            yield Abort(worker.seat, Reason(Rule.TIMEOUT, text))
        case State.READY | State.UNLOADED if (
            policy.timeout and not worker.is_mold and now - worker.beat_seen > policy.timeout
        ):
            waits = "" if worker.in_flight else "; no request is in hand, so a client may have sent nothing"
            text = f"no sign of life for {policy.timeout:g} s{waits}"
            yield Abort(worker.seat, Reason(Rule.TIMEOUT, text))
        case State.RETIRING if worker.asked_to_leave is not None and only_overdue(worker):
            yield Abort(worker.seat, Reason(Rule.REQUEST_TIMEOUT, named(worker.overdue)))
        case State.RETIRING if worker.asked_to_leave is not None:
            nothing_in_hand = worker.quick or worker.ready_at is None
            mercy = (
                min(policy.worker_reload_mercy, QUICK_MERCY)
                if nothing_in_hand
                else policy.worker_reload_mercy
            )
            if now - worker.asked_to_leave > mercy:
                text = f"{mercy:g} s ({worker.reason})"
                yield Abort(worker.seat, Reason(Rule.WORKER_RELOAD_MERCY, text))


# the end of the server


def _stopping(policy: Policy, fleet: Fleet, stop: Stop, now: float) -> Iterator[Action]:
    if fleet.listening:
        yield CloseListeners()
    workers = _in_order(fleet.workers.values())
    for worker in workers:
        again = stop.quick and not worker.quick and not worker.not_ended
        if worker.state is not State.SPAWNING and (worker.state is not State.RETIRING or again):
            yield Retire(worker.seat, Reason(Rule.STOP), quick=stop.quick)
    if not fleet.of(State.SPAWNING):
        for one in _in_order(fleet.molds.values()):
            if one.state is not State.RETIRING:
                yield Retire(one.seat, Reason(Rule.STOP), quick=True)
    late = now - stop.at > 2 * policy.worker_reload_mercy + policy.drain_delay + LAST_WAIT
    if not workers:
        yield Halt(stop.exit_code, stop.reason)
    elif late or all(worker.not_ended for worker in workers):
        pids = ", ".join(str(worker.pid) for worker in workers)
        reason = stop.reason or Reason(Rule.STOP)
        yield Halt(stop.exit_code, reason.adding(f"still running, although killed: pid {pids}"))


# the 503 answers


def _duties(policy: Policy, fleet: Fleet, now: float) -> Iterator[Action]:
    """Have 503 answered only while no worker is ready, and no longer once a worker waits to be admitted."""
    alone = policy.answers and all(
        worker.aborted is not None for worker in fleet.of(State.READY, State.LOADED)
    )
    unloaded = _in_order(fleet.of(State.UNLOADED))
    for worker in unloaded:
        if worker.duty_wanted != alone:
            yield Duty(worker.seat, alone)
    standing_in = fleet.stand_in
    if standing_in.seat is None:
        if policy.answers and policy.stand_in and now >= standing_in.next_try:
            yield SpawnStandIn()
        return
    since = fleet.nobody_ready_since
    late = since is not None and now - since >= policy.stand_in_after
    # once on duty it stays, while a reload tries its first load too
    wanted = alone and not unloaded and (standing_in.duty_wanted or (fleet.load_failed and late))
    if wanted != standing_in.duty_wanted and standing_in.killed is None:
        yield Duty(standing_in.seat, wanted)


def _admissions(fleet: Fleet) -> Iterator[Action]:
    """Admit loaded workers once no process answers 503 any more."""
    duties = [(one.on_duty, one.duty_wanted) for one in fleet.workers.values() if not one.not_ended]
    duties.append((fleet.stand_in.on_duty, fleet.stand_in.duty_wanted))
    if any(on or wanted for on, wanted in duties):
        return
    for worker in _in_order(fleet.of(State.LOADED)):
        if not worker.admitted and worker.aborted is None:
            yield Admit(worker.seat)


def _emergency(policy: Policy, fleet: Fleet, now: float) -> Iterator[Action]:
    victim = why_kill(policy, fleet, now)
    if victim is not None:
        worker, reason = victim
        yield Kill(worker.seat, reason, evil=True)


def _departures(policy: Policy, fleet: Fleet, now: float) -> list[Retire]:
    """Return the retirements; of two reasons for one worker, the first counts."""
    leaving: dict[int, Retire] = {}
    for retire in _not_needed(policy, fleet, now):
        leaving.setdefault(retire.seat, retire)
    return [*leaving.values(), *_break_before_make(policy, fleet, now, leaving=leaving)]


def _not_needed(policy: Policy, fleet: Fleet, now: float) -> Iterator[Retire]:
    """Retire workers that are to go in any case, because they have a successor or serve no request."""
    spare = fleet.ready - fleet.target  # slots: one may have a worker and its successor
    for worker in reversed(_in_order(fleet.workers.values())):
        if worker.slot <= fleet.target or worker.state in (State.SPAWNING, State.RETIRING, State.FAILED):
            continue
        if worker.state is State.READY:
            spare -= 1
            if spare < 0:
                continue  # a worker below the target cannot serve yet
        yield Retire(worker.seat, Reason(Rule.SCALE, "above the target"))
    for slot in range(1, fleet.target + 1):
        incumbent, successor = fleet.incumbent(slot), fleet.successor(slot)
        if incumbent is None or successor is None:
            continue
        if successor.state is State.READY and successor.aborted is None:
            yield Retire(incumbent.seat, _why_out(policy, fleet, incumbent, now) or Reason(Rule.REPLACED))
    where = mold.source(policy, fleet, now)
    newest = where.generation if where else 0  # of which a worker could be started now
    for worker in _in_order(fleet.of(State.LOADING, State.LOADED)):
        superseded = worker.generation < newest and _is_superseded(fleet, worker, now)
        if superseded and worker.slot <= fleet.target and worker.aborted is None:
            yield Retire(worker.seat, Reason(Rule.SUPERSEDED, f"generation {fleet.generation} has begun"))
    for worker in _in_order(fleet.of(State.UNLOADED)):
        reason = why_due(policy, fleet, worker, now)
        if reason and fleet.in_slot(worker.slot) == [
            worker
        ]:  # it serves no request, so it need not wait for a successor
            yield Retire(worker.seat, reason)


def _is_superseded(fleet: Fleet, worker: Worker, now: float) -> bool:
    """Say whether a load is to be taken away because a newer generation has begun."""
    incumbent = fleet.incumbent(worker.slot)
    if incumbent is not None and incumbent.state is State.READY:
        return True
    return may_be_taken_away(worker, fleet.record(worker.slot), now)


def _break_before_make(
    policy: Policy, fleet: Fleet, now: float, *, leaving: Container[int]
) -> Iterator[Retire]:
    """Retire before the successor starts: if `surge` is 0, or if there was no memory for a successor.

    ``leaving``: seats whose workers this plan retires already.
    """
    workers = (fleet.incumbent(slot) for slot in range(1, fleet.target + 1))
    # the longest there first
    incumbents = _in_order(one for one in workers if one is not None and one.seat not in leaving)
    if policy.surge == 0:
        yield from _make_room(policy, fleet, incumbents, now)
        return
    some_leave = any(not worker.not_ended for worker in fleet.of(State.RETIRING))
    if some_leave or fleet.of(*COMING) or len(incumbents) < fleet.target:
        return
    starved = [w for w in incumbents if _is_starved(fleet, w.slot) and w.state is State.READY]
    if not starved or fleet.frozen or fleet.ready - 1 < max(policy.min_loaded, 1):
        return
    largest = max(starved, key=lambda w: (w.rss, -w.ordinal))
    reason = _why_out_first(policy, fleet, largest, now)
    if reason:
        reason = reason.adding("it leaves first, because there was no memory for a successor beside it")
        yield Retire(largest.seat, reason, makes_room=True)


def _is_starved(fleet: Fleet, slot: int) -> bool:
    """Say whether a slot has no memory for its next load.

    Either its own last loads failed for want of memory; or a load in any slot did, and this slot waits for room.
    """
    return fleet.record(slot).no_memory >= NO_ROOM or (fleet.no_memory and slot in fleet.waiting)


def _make_room(policy: Policy, fleet: Fleet, incumbents: list[Worker], now: float) -> list[Retire]:
    """Retire due workers: at most `away` are missing at once, and the last ready worker stays."""
    there = [w for w in incumbents if w.state in (State.READY, State.UNLOADED) and w.aborted is None]
    away = fleet.target - len(there)
    room = policy.away - away
    if not fleet.proven:  # who leaves makes room for the canary
        room = min(room, 1 - away)
    spare = fleet.ready - 1 if fleet.target > 1 else 1
    leaving: list[Retire] = []
    for worker in sorted(there, key=lambda w: w.state is State.READY):  # who serves nothing goes first
        reason = _why_out_first(policy, fleet, worker, now)
        if reason and len(leaving) < room and (spare > 0 or worker.state is State.UNLOADED):
            spare -= worker.state is State.READY
            leaving.append(Retire(worker.seat, reason))
    return leaving


def _why_out_first(policy: Policy, fleet: Fleet, incumbent: Worker, now: float) -> Reason | None:
    """Return the reason for which an incumbent is to leave before its successor starts; None if it is not.

    It does not leave for a new generation that cannot be started now: an old mold would fork it again.
    """
    if incumbent.generation < fleet.generation and not _can_roll(policy, fleet, now):
        return _why_recycled(policy, fleet, incumbent, now)
    return _why_out(policy, fleet, incumbent, now)


def _can_roll(policy: Policy, fleet: Fleet, now: float) -> bool:
    """Say whether a worker of the newest generation may be started in place of an older one."""
    trying = any(w.generation == fleet.generation for w in fleet.of(*COMING))
    return (
        fleet.canary_next_try <= now
        and (fleet.proven or not trying)  # the first of a new generation is the canary
        and mold.source_of_successor(policy, fleet, now) is not None
    )


def _why_out(policy: Policy, fleet: Fleet, incumbent: Worker, now: float) -> Reason | None:
    """Return the reason for which an incumbent is to be replaced; None if it is not."""
    if incumbent.generation < fleet.generation:
        return Reason(Rule.RELOAD, f"generation {incumbent.generation} of {fleet.generation}")
    return _why_recycled(policy, fleet, incumbent, now)


def _why_recycled(policy: Policy, fleet: Fleet, incumbent: Worker, now: float) -> Reason | None:
    decided = fleet.record(incumbent.slot).wanted_out
    return decided or (why_due(policy, fleet, incumbent, now) if incumbent.state is State.READY else None)


# the starts


def _spawns(policy: Policy, fleet: Fleet, now: float, *, making_room: bool) -> Iterator[Action]:
    room = _room(policy, fleet)
    # while a worker leaves to make room in memory, no load begins beside a worker that serves
    making_room = making_room or any(worker.makes_room for worker in fleet.of(State.RETIRING))
    first, successor = mold.source(policy, fleet, now), mold.source_of_successor(policy, fleet, now)
    slots = _empty(policy, fleet, now)
    canary = _canary(policy, fleet, slots, now)
    empty = [(slot, None, successor if slot == canary else first) for slot in slots]
    due = [] if making_room else [(*pair, successor) for pair in _to_succeed(policy, fleet, now)]
    unfit = mold.convertible(policy, fleet)
    budget = Budget(policy, fleet, now)
    for slot, reason, source in (*empty, *due):
        if source is None:
            continue
        chosen = mold.or_by_itself(fleet, slot, source)
        kind = "load" if chosen.mold is None else "fork"
        if unfit is None and not budget.admits(slot, kind):
            continue
        if room <= 0:
            continue
        room -= 1
        if unfit is not None:
            yield Convert(unfit.seat, slot, reason)
            unfit = None
            continue
        budget.take(kind)
        yield Spawn(
            slot,
            chosen.generation,
            load_timeout(policy.load_timeout, fleet.record(slot).timeouts),
            stay=_may_stay(policy, fleet, slot, reason),
            reason=reason,
            mold=chosen.mold,
        )
    started = mold.start(policy, fleet, now)
    if started is not None and budget.admits(0, "mold") and room > 0 and not making_room:
        yield started
    if budget.has_changed:
        yield AwaitRoom(tuple(budget.lacks))


def _may_stay(policy: Policy, fleet: Fleet, slot: int, reason: Reason | None) -> bool:
    """Say whether the next worker of a slot stays, as need-app=off has it, if it cannot load.

    Not beside an incumbent, where it would only be a second one that cannot serve, nor while a reload is not proven and the
    old code serves: both are tried again.
    """
    if policy.need_app != "off" or reason or (fleet.old_code_serves and not fleet.proven):
        return False
    return fleet.record(slot).failures + 1 >= policy.load_retries


def _room(policy: Policy, fleet: Fleet) -> int:
    """Return how many loads and forks may begin now: after a failed load one worker at a time.

    After a proven want of memory, or under pressure, a mold and a worker never load at the same time.
    """
    coming, molds = len(fleet.of(*COMING)), len(mold.loading(fleet))
    room = policy.load_concurrency - coming - molds
    if fleet.no_memory or is_pressed(policy, fleet):
        return min(room, 1 - coming - molds)
    return min(room, 1 - coming) if fleet.load_failed else room


def _empty(policy: Policy, fleet: Fleet, now: float) -> list[int]:
    """List the slots without a worker that are due, the one that has waited longest first."""
    taken = {
        worker.slot
        for worker in fleet.workers.values()
        if worker.state is not State.RETIRING
        or worker.makes_room
        or (policy.surge == 0 and not worker.not_ended)
    }
    due = [
        slot
        for slot in range(1, fleet.target + 1)
        if slot not in taken and fleet.record(slot).next_try <= now
    ]
    return sorted(due, key=lambda slot: (fleet.record(slot).last_spawn, slot))


def _canary(policy: Policy, fleet: Fleet, empty: list[int], now: float) -> int | None:
    """Return the empty slot that tries the newest generation though an old mold could fork; None if none does.

    With a surge it is tried beside an incumbent, if there is a ready one. A slot in which the new code has failed gets the
    old code next, and the other way round.
    """
    if (policy.surge and fleet.ready) or not _can_roll(policy, fleet, now):
        return None
    records = (fleet.record(slot) for slot in empty)
    return next((one.slot for one in records if 2 * one.old_failures >= one.failures), None)


def _to_succeed(policy: Policy, fleet: Fleet, now: float) -> list[tuple[int, Reason]]:
    """List the slots whose incumbent is due and whose successor may start now, each with the reason."""
    slots = range(1, fleet.target + 1)
    budget = policy.surge - sum(1 for slot in slots if fleet.successor(slot) is not None)
    if budget <= 0 or fleet.canary_next_try > now:
        return []
    due = []
    for slot in slots:
        incumbent = fleet.incumbent(slot)
        if incumbent is None or incumbent.state not in (State.READY, State.UNLOADED):
            continue
        if fleet.successor(slot) is None and fleet.record(slot).next_try <= now:
            reason = _why_out(policy, fleet, incumbent, now)
            if reason:
                due.append((slot, reason))
    if not fleet.proven:  # the first of a new generation is the canary
        trying = any(w.generation == fleet.generation for w in fleet.of(*COMING))
        budget = 0 if trying else 1
    return sorted(due, key=lambda pair: (fleet.record(pair[0]).last_spawn, pair[0]))[:budget]


def _in_order(workers: Iterable[Worker]) -> list[Worker]:
    return sorted(workers, key=lambda w: w.ordinal)
