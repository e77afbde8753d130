"""Write the fleet onto the board for its readers: header, slots, samples. Runs in the arbiter."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

from django_workerguard.arbiter.last_minute import LastMinute
from django_workerguard.arbiter.seats import Seats
from django_workerguard.policy.mold import is_lazy
from django_workerguard.policy.reason import RECYCLES
from django_workerguard.policy.recycle import is_large_at_first, is_stalled, is_stuck, recycled_often
from django_workerguard.policy.view import Fleet, Policy, Refusal, Retry, State, Worker
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, LoadKind
from django_workerguard.scoreboard.layout import (
    HISTOGRAMS_WORDS,
    LARGEST_WORD,
    SAMPLES,
    Note,
    Sample,
    Seat,
    Slot,
    SlotState,
)
from django_workerguard.scoreboard.view_memory import fold_views

SAMPLE_EVERY = 10.0  # seconds
# what a slot shows of processes that are neither its incumbent nor its successor
COUNTS = {
    Slot.REQUESTS: Seat.REQUESTS,
    Slot.ERRORS_5XX: Seat.ERRORS_5XX,
    Slot.IN_FLIGHT: Seat.IN_FLIGHT,
    Slot.SHED: Seat.SHED,
    Slot.GONE: Seat.GONE,
}
MOLD_STATES = {
    State.READY: SlotState.READY,
    State.UNFIT: SlotState.UNFIT,
    State.RETIRING: SlotState.RETIRING,
}
STATES = {
    State.SPAWNING: SlotState.LOADING,
    State.LOADING: SlotState.LOADING,
    State.LOADED: SlotState.LOADING,
    State.READY: SlotState.READY,
    State.UNLOADED: SlotState.UNLOADED,
}


class Publisher:
    """Writes header, slots and samples."""

    def __init__(self, board: Board, seats: Seats) -> None:
        self._board = board
        self._seats = seats
        self._sampled = 0.0
        self._samples = 0
        self._refused: Refusal | None = None  # as it was written last
        self._used = 0  # the highest slot that anybody has ever been in
        self._ready: dict[int, int] = {}  # by slot: the pid that is ready, 0: none
        self._histograms_before: dict[int, list[int]] = {}  # of processes that are gone, by slot
        self._last_minute = LastMinute(board, monotonic_ns())
        self._gone: dict[tuple[int, Slot], int] = {}  # what processes counted that are gone, by slot

    def publish(self, policy: Policy, fleet: Fleet, now: float, *, phase: int) -> None:
        """Write the whole fleet. ``now`` is the arbiter's awake clock, in which the fleet's deadlines are."""
        words = self._board.words
        beat = words[Header.BEAT] = monotonic_ns()  # first: whatever fails below, the arbiter ticks
        words[Header.GENERATION] = fleet.generation
        words[Header.TARGET] = fleet.target
        words[Header.READY] = fleet.ready
        words[Header.QUORUM] = policy.min_loaded
        words[Header.PHASE] = phase
        words[Header.STAND_IN] = fleet.stand_in.on_duty
        words[Header.FROZEN] = fleet.frozen
        words[Header.LIFETIME] = int(policy.max_worker_lifetime * 1000)
        limits = [limit for limit in (policy.reload_on_rss, policy.evil_reload_on_rss) if limit]
        words[Header.RSS_LIMIT] = min(limits, default=0)
        words[Header.SURGE] = policy.surge
        words[Header.LOAD] = LoadKind.NAMES.index(policy.load)
        words[Header.UNFIT] = fleet.unfit

        def deadline(at: float) -> int:
            return beat + int((at - now) * 1e9) if at > now else 0

        self._refusal(fleet.refusal, now, deadline)
        self._mold(policy, fleet, deadline)
        if fleet.ready >= policy.min_loaded:
            words[Header.REACHED] = 1
        self._used = max((self._used, fleet.target, *(worker.slot for worker in fleet.workers.values())))
        for slot in range(1, self._used + 1):
            self._slot(fleet, slot, deadline)
            words[self._board.layout.slot(slot) + Slot.NOTES] = _notes(policy, fleet, slot)
            rule = recycled_often(fleet.record(slot), now)
            words[self._board.layout.slot(slot) + Slot.OFTEN] = RECYCLES.index(rule) + 1 if rule else 0
        if now - self._sampled >= SAMPLE_EVERY:
            self._sampled = now
            self._sample(policy, fleet)

    def _refusal(self, refusal: Refusal | None, now: float, deadline: Callable[[float], int]) -> None:
        """Write why the last reload was refused."""
        words = self._board.words
        words[Header.NEXT_RELOAD] = deadline(refusal.next_try or 0.0) if refusal else 0
        if refusal == self._refused:
            return
        self._refused = refusal
        if refusal is not None:
            self._board.write_refusal(refusal.reason)
            words[Header.NEEDS_RESTART] = refusal.retry is Retry.NEVER
        words[Header.REFUSED_AT] = int((time.time() - (now - refusal.at)) * 1e6) if refusal else 0

    def _mold(self, policy: Policy, fleet: Fleet, deadline: Callable[[float], int]) -> None:
        """Write the mold into slot 0: the newest one that is ready, or the newest."""
        words, at = self._board.words, self._board.layout.slot(0)
        molds = sorted(fleet.molds.values(), key=lambda mold: (mold.state is State.READY, mold.generation))
        mold = molds[-1] if molds else None
        state = MOLD_STATES.get(mold.state, SlotState.LOADING) if mold else _state_without_mold(policy, fleet)
        self._since(0, state, mold, at)
        words[at + Slot.STATE] = state
        words[at + Slot.SEAT] = mold.seat + 1 if mold else 0
        words[at + Slot.GENERATION] = mold.generation if mold else fleet.generation
        words[at + Slot.FAILURES] = fleet.mold_record.failures
        words[at + Slot.NOT_SPAWNED] = fleet.mold_record.not_spawned
        words[at + Slot.NEXT_TRY] = deadline(fleet.due(0))
        self._no_room(fleet, 0, at)
        if mold is not None:
            words[at + Slot.LOAD_NS] = self._load_ns(mold)

    def _since(self, slot: int, state: SlotState, process: Worker | None, at: int) -> None:
        ready = process.pid if process and state is SlotState.READY else 0
        if self._ready.get(slot) != ready:
            self._ready[slot] = ready
            self._board.words[at + Slot.SINCE] = int(time.time() * 1e6)

    def _slot(self, fleet: Fleet, slot: int, deadline: Callable[[float], int]) -> None:
        words, at = self._board.words, self._board.layout.slot(slot)
        incumbent, successor = fleet.incumbent(slot), fleet.successor(slot)
        record = fleet.record(slot)
        state = slot_state(fleet, slot)
        visible = incumbent or _leaving(fleet, slot)
        self._since(slot, state, visible, at)
        words[at + Slot.STATE] = state
        words[at + Slot.SEAT] = visible.seat + 1 if visible else 0
        words[at + Slot.SUCCESSOR] = successor.seat + 1 if successor else 0
        words[at + Slot.FAILURES] = record.failures
        words[at + Slot.NOT_SPAWNED] = record.not_spawned
        words[at + Slot.NEXT_TRY] = deadline(fleet.due(slot))
        self._no_room(fleet, slot, at)
        words[at + Slot.GENERATION] = visible.generation if visible else fleet.generation
        leaving = [w for w in fleet.all_in_slot(slot) if w is not visible and w is not successor]
        for total, counted in COUNTS.items():
            counts = (self._seats.word(worker.seat, counted) for worker in leaving)
            words[at + total] = _sum(self._gone.get((slot, total), 0), *counts)
        if visible is not None:
            words[at + Slot.LOAD_NS] = self._load_ns(visible)

    def _no_room(self, fleet: Fleet, slot: int, at: int) -> None:
        """Write what a slot that waits for memory needs."""
        waiting, words = fleet.waiting.get(slot), self._board.words
        words[at + Slot.NEEDED] = waiting.needed if waiting else 0
        words[at + Slot.MISSING] = waiting.needed - waiting.left if waiting else 0

    def _load_ns(self, worker: Worker) -> int:
        end = self._seats.word(worker.seat, Seat.LOAD_END)
        return max(0, end - self._seats.word(worker.seat, Seat.SPAWNED)) if end else 0

    def fold(self, slot: int, seat: int) -> None:
        """Move a gone process's counters to its slot, so that they survive it and are counted once."""
        words, at = self._board.words, self._board.layout.slot(slot)
        visible = seat + 1 in (words[at + Slot.SEAT], words[at + Slot.SUCCESSOR])
        if words[at + Slot.SEAT] == seat + 1:
            if words[at + Slot.STATE] == SlotState.READY:
                words[Header.READY] = max(0, words[Header.READY] - 1)
            words[at + Slot.STATE] = SlotState.EMPTY
        for word in (Slot.SEAT, Slot.SUCCESSOR):
            if words[at + word] == seat + 1:
                words[at + word] = 0  # the seat may be another's before the next publication
        for total, counted in COUNTS.items():
            if total is not Slot.IN_FLIGHT:
                count = self._seats.word(seat, counted)
                self._gone[slot, total] = _sum(self._gone.get((slot, total), 0), count)
                words[at + total] = _sum(words[at + total], count if visible else 0)
                words[self._board.layout.seat(seat) + counted] = 0
        self._fold_histograms(slot, seat)
        fold_views(self._board, slot, seat, self._seats.word(seat, Seat.GENERATION))
        words[at + Slot.EXITS] = _sum(words[at + Slot.EXITS], 1)

    def _fold_histograms(self, slot: int, seat: int) -> None:
        words, layout = self._board.words, self._board.layout
        of, at = layout.histograms(seat), layout.histograms_before(slot)
        before = self._histograms_before.get(slot, [0] * HISTOGRAMS_WORDS)
        counted = words[of : of + HISTOGRAMS_WORDS].tolist()
        totals = [_sum(*pair) for pair in zip(before, counted, strict=True)]
        words[of : of + HISTOGRAMS_WORDS] = memoryview(array("Q", [0] * HISTOGRAMS_WORDS))
        words[at : at + HISTOGRAMS_WORDS] = memoryview(array("Q", totals))
        self._histograms_before[slot] = totals

    def _sample(self, policy: Policy, fleet: Fleet) -> None:
        self._last_minute.sample(self._used, fleet.ready, policy.threads, self._board.words[Header.BEAT])
        words = self._board.words
        index = self._samples % SAMPLES
        for slot in range(1, fleet.target + 1):
            at, of = self._board.layout.sample(slot, index), self._board.layout.slot(slot)
            worker = fleet.incumbent(slot)
            words[at + Sample.AT] = int(time.time())
            for sample, folded, counted in (
                (Sample.REQUESTS, words[of + Slot.REQUESTS], Seat.REQUESTS),
                (Sample.ERRORS_5XX, words[of + Slot.ERRORS_5XX], Seat.ERRORS_5XX),
                (Sample.RSS, 0, Seat.RSS),
            ):
                words[at + sample] = _sum(folded, self._seats.word(worker.seat, counted) if worker else 0)
        self._samples += 1
        words[Header.SAMPLES] = self._samples


def _sum(*values: int) -> int:
    """Add counters, capped at what a word holds: a worker may have written any value into its own."""
    return min(sum(values), LARGEST_WORD)


def _notes(policy: Policy, fleet: Fleet, slot: int) -> Note:
    worker, note = fleet.incumbent(slot), Note.NONE
    if fleet.record(slot).evil_suspended:
        note |= Note.EVIL_SUSPENDED
    if any(one.not_ended for one in fleet.all_in_slot(slot)):
        note |= Note.NOT_ENDED
    if worker is None or worker.state is not State.READY:
        return note
    if is_large_at_first(policy, worker):
        note |= Note.RSS_BASELINE
    if worker.seat in fleet.outliers:
        note |= Note.OUTLIER
    if worker.seat in fleet.slow:
        note |= Note.OUTLIER_LATENCY
    if worker.overdue:
        note |= Note.OVERDUE
    if is_stuck(policy, fleet, worker):
        note |= Note.STUCK
    if is_stalled(policy, worker):
        note |= Note.STALLED
    return note


def _leaving(fleet: Fleet, slot: int) -> Worker | None:
    return next((worker for worker in fleet.all_in_slot(slot) if not worker.not_ended), None)


def _state_without_mold(policy: Policy, fleet: Fleet) -> SlotState:
    if policy.load == "lazy":
        return SlotState.EMPTY
    # with load=auto an unfit mold has become a worker, and there is no other one until a reload
    if is_lazy(policy, fleet):
        return SlotState.UNFIT
    return SlotState.NO_ROOM if 0 in fleet.waiting else SlotState.BACK_OFF


def slot_state(fleet: Fleet, slot: int) -> SlotState:
    """Say in one word what a slot is doing."""
    incumbent = fleet.incumbent(slot)
    if incumbent is not None:
        return STATES[incumbent.state] if incumbent.aborted is None else SlotState.RETIRING
    if any(worker.state is State.RETIRING and not worker.not_ended for worker in fleet.all_in_slot(slot)):
        return SlotState.RETIRING
    if slot in fleet.waiting:
        return SlotState.NO_ROOM
    record = fleet.record(slot)
    has_failed = bool(record.failures or record.not_spawned)  # otherwise it only waits for its turn
    return SlotState.BACK_OFF if has_failed and slot <= fleet.target and fleet.spawns else SlotState.EMPTY
