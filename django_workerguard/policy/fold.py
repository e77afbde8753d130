"""How a message changes the fleet: one function from fleet and message to fleet. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django_workerguard.policy import message as m
from django_workerguard.policy.mold import old_mold
from django_workerguard.policy.readings import counted, measured, timed
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.recycle import recycled
from django_workerguard.policy.room import awaited, weighed
from django_workerguard.policy.strikes import STABLE, died, failed, killed, next_try, refused, struck
from django_workerguard.policy.view import (
    Counts,
    Durations,
    Fleet,
    Policy,
    Record,
    StandIn,
    State,
    Stop,
    Worker,
)

NOT_ENDED_AFTER = 5.0  # seconds after SIGKILL until a process that the kernel has not ended counts as ended
BY_ITSELF = Reason(
    Rule.LEFT, "the arbiter did not ask it to: it stopped by itself, or another process sent it a signal"
)


def fold(policy: Policy, fleet: Fleet, message: m.Message) -> Fleet:
    """Return the fleet after a message. A message about a seat that is free changes nothing."""
    fleet = _folded(policy, fleet, message)
    return replace(fleet, reloading=False) if fleet.reloading and fleet.is_rolled else fleet


def _folded(policy: Policy, fleet: Fleet, message: m.Message) -> Fleet:
    match message:
        case m.Spawning():
            return _spawning(fleet, message)
        case m.Spawned():
            return _spawned(fleet, message)
        case m.SpawnFailed():
            return _not_spawned(policy, fleet, message)
        case m.MoldSpawned():
            return _mold_spawned(fleet, message)
        case m.Converted():
            return _converted(fleet, message)
        case m.Observed():
            return _observed(policy, fleet, message)
        case m.Measured():
            return measured(policy, fleet, message)
        case m.RoomMeasured(free, pressure):
            return replace(fleet, free=free, pressure=pressure)
        case m.Weighed(seat, size):
            return weighed(fleet, seat, size)
        case m.RoomAwaited(lacks, at):
            return awaited(policy, fleet, lacks, at)
        case m.Timed():
            return timed(policy, fleet, message)
        case m.LoadFailed(failure):
            return replace(fleet, last_failure=failure)
        case m.Exited():
            return _exited(policy, fleet, message)
        case m.Asked(seat, reason, at, quick, makes_room):
            return _change(_asked(fleet, seat, reason, at, quick=quick), seat, makes_room=makes_room)
        case m.Aborted(seat, reason, at):
            return _nobody(_change(fleet, seat, aborted=at, reason=reason), at)
        case m.Killed():
            return _sent_sigkill(fleet, message)
        case m.Admitted(seat, at):
            return _change(fleet, seat, admitted=True, beat_seen=at)
        case m.DutySet(seat, on, at):
            return _duty(fleet, seat, at, on=on)
        case m.StandInSpawned(seat, pid, _):
            return replace(fleet, stand_in=replace(fleet.stand_in, seat=seat, pid=pid, next_try=0.0))
        case m.StandInGone(at, seat):
            return replace(fleet, stand_in=_without_stand_in(policy, fleet.stand_in, seat, at))
        case m.TargetChanged(target, by_hand):
            return replace(fleet, target=target, next_target=None, scaled=fleet.scaled or by_hand)
        case m.GenerationStarted(at, target):
            return _new_generation(fleet, at, target)
        case m.ReloadBegun(retry):
            refusal = fleet.refusal and replace(fleet.refusal, next_try=None)
            return replace(fleet, refusal=refusal, scaled=fleet.scaled and retry)
        case m.ReloadRefused():
            return replace(fleet, refusal=refused(policy, fleet.refusal, message))
        case m.RecycleAsked(slot, reason):
            return _with_record(fleet, replace(fleet.record(slot), wanted_out=reason))
        case m.StopAsked(at, quick, exit_code, reason):
            before = fleet.stop or Stop(at=at)
            stop = Stop(
                at=before.at,
                quick=quick or before.quick,
                exit_code=exit_code or before.exit_code,
                reason=reason or before.reason,
            )
            return replace(fleet, stop=stop, waiting={})
        case m.ListenersClosed():
            return replace(fleet, listening=False)


def _not_spawned(policy: Policy, fleet: Fleet, message: m.SpawnFailed) -> Fleet:
    slot, at = message.slot, message.at
    asked = None if message.seat is None else fleet.workers.get(message.seat)
    workers = {seat: worker for seat, worker in fleet.workers.items() if seat != message.seat}
    fleet = replace(fleet, workers=workers, spawns=fleet.spawns + 1)
    if message.excused:
        return fleet
    if not slot:
        record = struck(policy, fleet.mold_record, at, transient=True)
        return replace(fleet, mold_record=replace(record, not_spawned=record.not_spawned + 1))
    record = struck(policy, fleet.record(slot), at, transient=True)
    by_mold = asked is not None and asked.mold is not None and not message.memory
    record = replace(
        record,
        last_spawn=fleet.spawns,
        not_spawned=record.not_spawned + 1,
        not_forked=record.not_forked + by_mold,
    )
    return _strike_canary(policy, _with_record(fleet, record), slot, at, transient=True)


def _sent_sigkill(fleet: Fleet, message: m.Killed) -> Fleet:
    at = message.at
    if message.seat == fleet.stand_in.seat:
        return replace(fleet, stand_in=replace(fleet.stand_in, killed=at))
    if not message.evil:
        process = fleet.process(message.seat)
        reason = (process.reason if process else None) or message.reason
        return _change(fleet, message.seat, killed=at, reason=reason)
    worker = fleet.workers.get(message.seat)
    if worker is not None:
        fleet = _with_record(fleet, recycled(fleet.record(worker.slot), message.reason.rule, at))
    fleet = _change(replace(fleet, last_evil=at), message.seat, killed=at, aborted=at, reason=message.reason)
    return _nobody(fleet, at)


def _spawning(fleet: Fleet, message: m.Spawning) -> Fleet:
    worker = Worker(
        seat=message.seat,
        slot=message.slot,
        pid=0,
        generation=message.generation,
        ordinal=fleet.spawns + 1,
        spawned=message.at,
        since=message.at,
        beat_seen=message.at,
        load_timeout=message.load_timeout,
        mold=message.mold,
        state=State.SPAWNING,
    )
    return _taken(replace(fleet, spawns=worker.ordinal), worker, message.reason)


def _spawned(fleet: Fleet, message: m.Spawned) -> Fleet:
    seat, at = message.seat, message.at
    fleet = _change(fleet, seat, state=State.LOADING, pid=message.pid, spawned=at, since=at, beat_seen=at)
    return _started(fleet, seat)


def _started(fleet: Fleet, seat: int) -> Fleet:
    worker = fleet.workers.get(seat)
    if worker is None:
        return fleet
    return _with_record(fleet, replace(fleet.record(worker.slot), not_spawned=0, not_forked=0))


def _taken(fleet: Fleet, worker: Worker, reason: Reason | None) -> Fleet:
    """Put a process into a slot. ``reason``: why the incumbent is to be succeeded."""
    fleet = _with_worker(fleet, worker)
    # once a successor has been started, the incumbent is replaced even if the rule no longer applies
    wanted_out = reason if fleet.successor(worker.slot) is not None else None
    record = fleet.record(worker.slot)
    squeezed = record.squeezed + (worker.slot in fleet.waiting)
    record = replace(record, last_spawn=worker.ordinal, wanted_out=wanted_out, squeezed=squeezed)
    return _with_record(fleet, record)


def _mold_spawned(fleet: Fleet, message: m.MoldSpawned) -> Fleet:
    mold = Worker(
        seat=message.seat,
        slot=0,
        pid=message.pid,
        generation=message.generation,
        ordinal=fleet.spawns + 1,
        spawned=message.at,
        since=message.at,
        load_timeout=message.load_timeout,
    )
    squeezed = fleet.mold_record.squeezed + (0 in fleet.waiting)
    record = replace(fleet.mold_record, not_spawned=0, squeezed=squeezed)
    return _with_worker(replace(fleet, spawns=mold.ordinal, mold_record=record), mold)


def _converted(fleet: Fleet, message: m.Converted) -> Fleet:
    """The mold is a worker that still loads: what a fork does for itself is ahead of it."""
    mold = fleet.molds[message.seat]
    molds = {seat: other for seat, other in fleet.molds.items() if seat != message.seat}
    at = message.at
    worker = replace(
        mold,
        slot=message.slot,
        ordinal=fleet.spawns + 1,
        spawned=at,
        since=at,
        beat_seen=at,
        state=State.LOADING,
        ready_at=None,
    )
    fleet = _taken(replace(fleet, molds=molds, spawns=worker.ordinal), worker, message.reason)
    return _started(fleet, worker.seat)


def _observed(policy: Policy, fleet: Fleet, message: m.Observed) -> Fleet:
    workers = dict(fleet.workers)  # one copy for all readings
    for reading in message.readings:
        if reading.seat in workers:
            workers[reading.seat] = counted(workers[reading.seat], reading, message.at)
        elif reading.seat == fleet.stand_in.seat and not _is_late(fleet.stand_in.killed, message.at):
            fleet = replace(fleet, stand_in=replace(fleet.stand_in, on_duty=reading.on_duty))
    fleet = replace(fleet, workers=workers)
    for reading in message.readings:
        worker = workers.get(reading.seat) or fleet.molds.get(reading.seat)
        if worker is not None and reading.state not in (None, worker.state):
            changed = _changed_mold if worker.is_mold else _changed_state
            fleet = changed(policy, fleet, reading, message.at)
    return _without_not_ended(policy, fleet, message.at)


def _without_not_ended(policy: Policy, fleet: Fleet, at: float) -> Fleet:
    """Count the processes as ended that were killed and that the kernel does not end.

    Such a process hangs in a read, is frozen or is traced: it serves nothing, but it has its seat and its memory. So a slot
    lets only one of them go.
    """
    for process in (*fleet.workers.values(), *fleet.molds.values()):
        if process.not_ended or not _is_late(process.killed, at):
            continue
        beside = fleet.molds.values() if process.is_mold else fleet.all_in_slot(process.slot)
        if not any(other.not_ended for other in beside):
            fleet = _exited(policy, fleet, m.Exited(process.seat, at))
            counted = replace(
                process, state=State.RETIRING, not_ended=True, makes_room=False, duty_wanted=False
            )
            fleet = _with_worker(fleet, counted)
    stand_in = fleet.stand_in
    if _is_late(stand_in.killed, at):
        if stand_in.not_ended is None:
            gone = _without_stand_in(policy, stand_in, stand_in.seat, at)
            stand_in = replace(gone, not_ended=stand_in.seat)
        fleet = replace(fleet, stand_in=replace(stand_in, on_duty=False))
    return fleet


def _without_stand_in(policy: Policy, stand_in: StandIn, seat: int | None, at: float) -> StandIn:
    if seat is not None and seat == stand_in.not_ended:
        return replace(stand_in, not_ended=None)
    strikes = stand_in.strikes + 1
    return StandIn(
        strikes=strikes,
        next_try=next_try(policy, strikes, at, slot=0, transient=True),
        not_ended=stand_in.not_ended,
    )


def _is_late(killed: float | None, at: float) -> bool:
    return killed is not None and at - killed >= NOT_ENDED_AFTER


def _changed_mold(policy: Policy, fleet: Fleet, reading: m.Reading, at: float) -> Fleet:
    mold = fleet.molds[reading.seat]
    if reading.state is None or mold.state is State.RETIRING or mold.aborted is not None:
        return fleet
    if reading.state is State.RETIRING:
        return _asked(fleet, mold.seat, BY_ITSELF, at, quick=False)
    fleet = _change(fleet, mold.seat, state=reading.state, since=at)
    newest = mold.generation == fleet.generation
    match reading.state:
        case State.READY:
            fleet = _change(fleet, mold.seat, ready_at=at)
            record = replace(
                fleet.mold_record,
                failures=0,
                timeouts=0,
                no_memory=0,
                not_spawned=0,
                superseded_after=0.0,
                squeezed=0,
            )
            return replace(fleet, mold_record=record, unfit=False) if newest else fleet
        case State.UNFIT if newest:
            fleet = replace(fleet, unfit=True)
            if policy.load == "auto":
                return fleet
            return _mold_failed(policy, fleet, mold, m.Exited(mold.seat, at, transient=False))
        case State.FAILED:  # known before it has gone
            return replace(fleet, load_failed=True, failed_ordinal=fleet.spawns)
    return fleet


def _changed_state(policy: Policy, fleet: Fleet, reading: m.Reading, at: float) -> Fleet:
    worker = fleet.workers[reading.seat]
    if reading.state is None or worker.state is State.RETIRING or worker.aborted is not None:
        return fleet  # it leaves, whatever it says
    if reading.state is State.UNFIT:  # it was a mold, and has not begun to be a worker
        return fleet
    if reading.state is State.FAILED:  # known before it has gone
        fleet = replace(fleet, load_failed=True, failed_ordinal=fleet.spawns)
    if reading.state is State.RETIRING:
        return _left(policy, fleet, worker, at)
    worker = replace(worker, state=reading.state, since=at, beat_seen=at)
    if reading.state is State.READY:
        marks = (Counts(at, worker.requests, worker.errors),)
        worker = replace(worker, ready_at=at, marks=marks, durations=(Durations(at, ()),))
        return _became_ready(_with_worker(fleet, worker), worker)
    return _with_worker(fleet, worker)


def _left(policy: Policy, fleet: Fleet, worker: Worker, at: float) -> Fleet:
    """Take note of a worker that stops by itself, or that another process has sent a signal."""
    if fleet.stop is not None:  # Ctrl+C and some supervisors signal the workers together with the arbiter
        return _asked(fleet, worker.seat, Reason(Rule.STOP), at, quick=False)
    if worker.state is State.READY:
        fleet = _with_record(fleet, died(policy, fleet.record(worker.slot), worker, at, clean=True))
    return _asked(fleet, worker.seat, BY_ITSELF, at, quick=False)


def _became_ready(fleet: Fleet, worker: Worker) -> Fleet:
    record = fleet.record(worker.slot)
    record = replace(
        record,
        failures=0,
        old_failures=0,
        timeouts=0,
        no_memory=0,
        next_try=0.0,
        superseded_after=0.0,
        squeezed=0,
    )
    fleet = _with_record(fleet, record)
    if worker.generation == fleet.generation:
        target = fleet.target if fleet.next_target is None else fleet.next_target
        fleet = replace(fleet, canary_strikes=0, canary_next_try=0.0, target=target, next_target=None)
    # a worker that was already loading when another failed proves nothing about the cause
    healed = worker.ordinal > fleet.failed_ordinal
    return replace(
        fleet,
        ever_ready=True,
        served=max(fleet.served, worker.generation),
        nobody_ready_since=None,
        last_failure=None,
        load_failed=fleet.load_failed and not healed,
    )


def _exited(policy: Policy, fleet: Fleet, message: m.Exited) -> Fleet:
    worker = fleet.workers.get(message.seat)
    if worker is None:
        return _mold_exited(policy, fleet, message)
    at = message.at
    rest = {seat: other for seat, other in fleet.workers.items() if seat != message.seat}
    outlying = {seat: reason for seat, reason in fleet.outliers.items() if seat != message.seat}
    slow = {seat: reason for seat, reason in fleet.slow.items() if seat != message.seat}
    fleet = _nobody(replace(fleet, workers=rest, outliers=outlying, slow=slow), at)
    match worker.state:
        case State.RETIRING:
            return fleet
        case State.READY | State.UNLOADED:
            record = died(policy, fleet.record(worker.slot), worker, at, clean=message.clean)
            return _with_record(fleet, killed(policy, record, worker, at))
        case _:
            return _failed_load(policy, fleet, worker, message)


def _mold_exited(policy: Policy, fleet: Fleet, message: m.Exited) -> Fleet:
    """The back-off belongs to the load of a generation: it ends only when a mold of it is ready."""
    mold = fleet.molds.get(message.seat)
    if mold is None:
        return fleet
    rest = {seat: other for seat, other in fleet.molds.items() if seat != message.seat}
    fleet = replace(fleet, molds=rest)
    if mold.generation != fleet.generation:
        return fleet
    match mold.state:
        case State.RETIRING | State.UNFIT:
            return fleet
        case State.READY:
            record = died(policy, fleet.mold_record, mold, message.at, clean=message.clean)
            return replace(fleet, mold_record=record)
        case _:
            return _mold_failed(policy, fleet, mold, message)


def _mold_failed(policy: Policy, fleet: Fleet, mold: Worker, message: m.Exited) -> Fleet:
    record = failed(policy, fleet.mold_record, mold, message, fleet.generation)
    fleet = replace(fleet, mold_record=record, load_failed=True, failed_ordinal=fleet.spawns)
    return _strike_canary(policy, fleet, 0, message.at, transient=message.transient)


def _failed_load(policy: Policy, fleet: Fleet, worker: Worker, message: m.Exited) -> Fleet:
    record = fleet.record(worker.slot)
    incumbent = fleet.incumbent(worker.slot)
    if incumbent is not None and incumbent.ready_at is not None and message.at - incumbent.ready_at >= STABLE:
        record = replace(record, strikes=record.failures)  # what was before it became ready is over
    record = failed(policy, record, worker, message, fleet.generation)
    fleet = replace(fleet, load_failed=True, failed_ordinal=fleet.spawns)
    if worker.generation == fleet.generation:
        fleet = _strike_canary(policy, fleet, worker.slot, message.at, transient=message.transient)
        if old_mold(fleet, message.at) is not None:  # it has the code that serves
            record = replace(record, next_try=message.at)
    return _with_record(fleet, record)


def _strike_canary(policy: Policy, fleet: Fleet, slot: int, at: float, *, transient: bool) -> Fleet:
    """Have the newest generation wait, while the code that it is to replace serves on."""
    if not fleet.old_code_serves:
        return fleet
    strikes = fleet.canary_strikes + 1
    return replace(
        fleet,
        canary_strikes=strikes,
        canary_next_try=next_try(policy, strikes, at, slot=slot, transient=transient),
    )


def _new_generation(fleet: Fleet, at: float, target: int | None) -> Fleet:
    """The back-off belongs to the load of a generation: new code is tried at once."""
    records = {
        slot: replace(
            record,
            failures=0,
            old_failures=0,
            strikes=0,
            timeouts=0,
            no_memory=0,
            evil_kills=0,
            next_try=at,
            squeezed=0,
        )
        for slot, record in fleet.records.items()
    }
    for slot, record in records.items():  # whether a worker is of an older generation is seen anew
        if record.wanted_out is not None and record.wanted_out.rule is Rule.RELOAD:
            records[slot] = replace(record, wanted_out=None)
    return replace(
        fleet,
        generation=fleet.generation + 1,
        records=records,
        mold_record=Record(slot=0, next_try=at, superseded_after=fleet.mold_record.superseded_after),
        unfit=False,
        canary_strikes=0,
        canary_next_try=0.0,
        load_failed=False,
        reloading=True,
        next_target=None if fleet.scaled else target,
        refusal=None,
    )


def _duty(fleet: Fleet, seat: int, at: float, *, on: bool) -> Fleet:
    if seat == fleet.stand_in.seat:
        return replace(fleet, stand_in=replace(fleet.stand_in, duty_wanted=on, duty_since=at))
    return _change(fleet, seat, duty_wanted=on, duty_since=at)


def _asked(fleet: Fleet, seat: int, reason: Reason, at: float, *, quick: bool) -> Fleet:
    mold = fleet.molds.get(seat)
    if mold is not None:
        if mold.state in (State.LOADING, State.LOADED) and mold.generation < fleet.generation:
            record = replace(fleet.mold_record, superseded_after=at - mold.spawned)
            fleet = replace(fleet, mold_record=record)
        return _change(
            fleet, seat, state=State.RETIRING, since=at, asked_to_leave=at, reason=reason, quick=quick
        )
    worker = fleet.workers.get(seat)
    if worker is None:
        return fleet
    worker = replace(
        worker,
        state=State.RETIRING,
        since=at,
        asked_to_leave=at,
        reason=reason,
        quick=quick,
        duty_wanted=False,
    )
    record = replace(recycled(fleet.record(worker.slot), reason.rule, at), wanted_out=None, no_memory=0)
    before = fleet.workers[seat]
    loads = before.state in (State.LOADING, State.LOADED) and before is fleet.incumbent(worker.slot)
    if loads and before.generation < fleet.generation:
        record = replace(record, superseded_after=at - before.spawned)
    if fleet.successor(worker.slot) is None and reason.rule is not Rule.LEFT:
        record = replace(record, next_try=at)  # no successor loads yet: start it once the slot is empty
    return _nobody(_with_record(_with_worker(fleet, worker), record), at)


def _change(fleet: Fleet, seat: int, **changes: Any) -> Fleet:
    """Change the worker or the mold in a seat."""
    worker = fleet.process(seat)
    return fleet if worker is None else _with_worker(fleet, replace(worker, **changes))


def _nobody(fleet: Fleet, at: float) -> Fleet:
    if fleet.nobody_ready_since is None and not fleet.ready:
        return replace(fleet, nobody_ready_since=at)
    return fleet


def _with_worker(fleet: Fleet, worker: Worker) -> Fleet:
    if worker.is_mold:
        return replace(fleet, molds={**fleet.molds, worker.seat: worker})
    return replace(fleet, workers={**fleet.workers, worker.seat: worker})


def _with_record(fleet: Fleet, record: Record) -> Fleet:
    return replace(fleet, records={**fleet.records, record.slot: record})
