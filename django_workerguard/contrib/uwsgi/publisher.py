"""Write what is known of uWSGI's workers onto the board, and their events to journal and log. Runs in one of uWSGI's workers.

The board is also the memory: the worker that keeps it next goes on from what is written there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from django_workerguard.contrib.uwsgi.server import Shown
from django_workerguard.contrib.uwsgi.zombies import Decision, Record, State
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.probe.process import resident_bytes
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, Phase
from django_workerguard.scoreboard.journal import write_event
from django_workerguard.scoreboard.layout import (
    SAMPLES,
    Sample,
    Seat,
    SeatKind,
    SeatState,
    Slot,
    SlotState,
)
from django_workerguard.scoreboard.tallies import OTHER, Tallies

SAMPLE_EVERY = 10  # seconds
VALID_FOR = 20_000_000_000  # ns
GENERATION = 1  # uWSGI has no number for it
TYPES = {Rule.FAILED_LOAD: "NoApplication", Rule.LOAD_TIMEOUT: Rule.LOAD_TIMEOUT.value}
KINDS = {Rule.FAILED_LOAD: "exception", Rule.LOAD_TIMEOUT: "timeout"}  # of a failed load, for the tallies
SLOT_STATES = {
    State.EMPTY: SlotState.EMPTY,
    State.LOADING: SlotState.LOADING,
    State.READY: SlotState.READY,
    State.UNLOADED: SlotState.UNLOADED,
}
SEAT_STATES = {
    State.LOADING: SeatState.LOADING,
    State.READY: SeatState.READY,
    State.UNLOADED: SeatState.UNLOADED,
}

logger = logging.getLogger("django_workerguard")


def count_wanted(workers: Sequence[Shown]) -> int:
    """Return how many workers uWSGI wants to run now: all but those that ``cheaper`` has stopped."""
    return sum(not worker.cheap for worker in workers)


class Publisher:
    """Writes one board: slot and seat of a worker have its id."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._words = board.words
        self._tallies = Tallies(board)

    # the memory

    def memory(self) -> dict[int, Record]:
        """Read the memory of the worker that kept the board before."""
        return {number: self._record(number) for number in range(1, self.board.layout.slots + 1)}

    def _record(self, id: int) -> Record:
        seat, slot = self._seat(id), self._slot(id)
        words = self._words
        unloaded = words[slot + Slot.STATE] == SlotState.UNLOADED
        return Record(
            identity=(words[seat + Seat.PID], words[seat + Seat.START]),
            since=words[seat + Seat.SPAWNED] / 1e9,
            failures=max(0, words[slot + Slot.FAILURES] - unloaded),
            next_end=words[slot + Slot.NEXT_TRY] / 1e9,
            ended=words[seat + Seat.ENDED] / 1e9,
        )

    # a look

    def introduce(self, about: Mapping[str, Any], *, kind: int, quorum: int) -> None:
        """Write which server this is."""
        self.board.write_about(dict(about))
        for word, value in (
            (Header.KIND, kind),
            (Header.QUORUM, quorum),
            (Header.GENERATION, GENERATION),
            (Header.PHASE, Phase.SERVING),
            (Header.VALID_FOR, VALID_FOR),
        ):
            self._words[word] = value

    def kept_by(self, worker: Shown, *, target: int) -> None:
        """Write down that this worker looks after the others from now on."""
        if self._words[Header.EVENTS] == 0:
            bind = self.board.read_about().get("bind", [])
            self._event("started", pid=self._words[Header.PID], bind=bind, target=target)
        self._event("keeper", slot=worker.id, pid=worker.pid, generation=GENERATION)

    def publish(self, workers: Sequence[Shown], decision: Decision) -> None:
        """Write the state of every worker, and the events that have made it."""
        words, now = self._words, monotonic_ns()
        words[Header.BEAT] = now
        ready = sum(state is State.READY for state in decision.states.values())
        target = count_wanted(workers)
        for worker in workers:
            self._publish(worker, decision, ready=ready, target=target)
        # last, so that a reader finds the workers that are counted
        words[Header.TARGET], words[Header.READY] = target, ready
        if ready >= words[Header.QUORUM]:
            words[Header.REACHED] = 1
        self._sample(workers)

    def _publish(self, worker: Shown, decision: Decision, *, ready: int, target: int) -> None:
        words, seat, slot = self._words, self._seat(worker.id), self._slot(worker.id)
        state, record = decision.states[worker.id], decision.memory[worker.id]
        before = words[slot + Slot.STATE]
        shown = (words[seat + Seat.PID], words[seat + Seat.START])
        is_new = state is not State.EMPTY and shown != (worker.pid, worker.start)
        if shown[0] and (is_new or state is State.EMPTY):
            self._gone(worker.id, before)
        if is_new:
            self.board.clear_seat(worker.id - 1)
            words[seat + Seat.KIND] = SeatKind.WORKER
            words[seat + Seat.START] = worker.start
            words[seat + Seat.SLOT] = worker.id
            words[seat + Seat.GENERATION] = GENERATION
            words[seat + Seat.SPAWNED] = int(record.since * 1e9)
            words[seat + Seat.PID] = worker.pid
            self._about("spawned", worker.id, rule="", reason="")
        unloaded = state is State.UNLOADED
        if state is not State.EMPTY:
            words[seat + Seat.STATE] = SEAT_STATES[state]
            words[seat + Seat.BEAT] = words[Header.BEAT]
            words[seat + Seat.RSS] = resident_bytes(worker.pid)
            words[seat + Seat.REQUESTS] = worker.requests
            words[seat + Seat.ERRORS_5XX] = worker.requests if unloaded else 0
            words[seat + Seat.IN_FLIGHT] = worker.busy
        self.write_record(worker.id, record, unloaded=unloaded)
        words[slot + Slot.REQUESTS] = worker.requests_before
        words[slot + Slot.EXITS] = worker.respawns
        words[slot + Slot.GENERATION] = GENERATION
        words[slot + Slot.LOAD_NS] = worker.load_seconds * 1_000_000_000
        words[slot + Slot.SEAT] = worker.id if state is not State.EMPTY else 0
        words[slot + Slot.STATE] = SLOT_STATES[state]
        if is_new or before != SLOT_STATES[state]:
            words[slot + Slot.SINCE] = int(time.time() * 1e6)
            self._tell(worker, state, decision.reasons.get(worker.id), ready=ready, target=target)

    def write_record(self, id: int, record: Record, *, unloaded: bool) -> None:
        """Write what is remembered of a worker id, where `memory` finds it."""
        words, seat, slot = self._words, self._seat(id), self._slot(id)
        words[seat + Seat.ENDED] = int(record.ended * 1e9)
        words[slot + Slot.FAILURES] = record.failures + unloaded
        next_end = int(record.next_end * 1e9)
        words[slot + Slot.NEXT_TRY] = next_end if next_end > monotonic_ns() else 0

    def _gone(self, id: int, before: int) -> None:
        """Write down that the process in a seat is gone."""
        words, seat, slot = self._words, self._seat(id), self._slot(id)
        words[slot + Slot.ERRORS_5XX] += words[seat + Seat.ERRORS_5XX]
        lived = round((monotonic_ns() - words[seat + Seat.SPAWNED]) / 1e9, 3)
        match before:
            case SlotState.READY:
                self._tallies.count("exits", OTHER)
                fields = {
                    name: words[seat + word]
                    for name, word in (
                        ("requests", Seat.REQUESTS),
                        ("errors_5xx", Seat.ERRORS_5XX),
                        ("rss_bytes", Seat.RSS),
                    )
                }
                self._about(
                    "exited",
                    id,
                    end="unknown",
                    by="",
                    rule="",
                    reason="see uWSGI's log",
                    state="ready",
                    lived=lived,
                    **fields,
                )
            case SlotState.LOADING:
                self._failed(
                    id, "died", "died", f"the process ended after {lived:.1f} s, before it was loaded"
                )
        words[seat + Seat.PID] = 0
        words[seat + Seat.KIND] = SeatKind.FREE

    def _tell(self, worker: Shown, state: State, reason: Reason | None, *, ready: int, target: int) -> None:
        match state:
            case State.READY:
                self._tallies.count_load(worker.load_seconds)
                self._about("ready", worker.id, load_seconds=worker.load_seconds, ready=ready, target=target)
                self._log("info", worker.id, "ready", "ready (%d of %d)", ready, target)
            case State.UNLOADED if reason is not None:
                text = f"{reason.text}; uWSGI's log has the error"
                self._failed(worker.id, TYPES[reason.rule], KINDS[reason.rule], text)

    def _failed(self, id: int, type_: str, kind: str, message: str) -> None:
        self._tallies.count("load_failures", kind)
        error = {"type": type_, "message": message, "traceback": "", "step": None, "at": time.time()}
        self.board.write_last_error(id, error)
        self._about("load-failed", id, type=type_, message=message, step="")
        self._log("error", id, "load-failed", "the load failed: %s", message)

    def killed(self, worker: Shown, reason: Reason, record: Record, now: float) -> None:
        """Write down that a worker was ended, and its back-off."""
        self._about("killed", worker.id, rule=reason.rule.value, reason=str(reason))
        wait = record.next_end - now
        self._about("back-off", worker.id, seconds=round(wait, 3), failures=record.failures)
        self.write_record(worker.id, record, unloaded=False)
        self._words[self._slot(worker.id) + Slot.STATE] = SlotState.EMPTY
        self._words[self._slot(worker.id) + Slot.SEAT] = 0
        text = "killed: %s; the next try is in %.1f s if its successor cannot load either"
        self._log("error", worker.id, "killed", text, reason, wait)

    def _sample(self, workers: Sequence[Shown]) -> None:
        words, now = self._words, int(time.time())
        taken = words[Header.SAMPLES]
        latest = self.board.layout.sample(1, (taken - 1) % SAMPLES)
        if taken and 0 <= now - words[latest + Sample.AT] < SAMPLE_EVERY:
            return
        for worker in workers:
            at, slot = self.board.layout.sample(worker.id, taken % SAMPLES), self._slot(worker.id)
            seat = self._seat(worker.id)
            is_there = words[slot + Slot.SEAT] != 0
            for field, value in (
                (Sample.AT, now),
                (Sample.REQUESTS, worker.requests_before + worker.requests),
                (Sample.ERRORS_5XX, words[slot + Slot.ERRORS_5XX] + is_there * words[seat + Seat.ERRORS_5XX]),
                (Sample.RSS, is_there * words[seat + Seat.RSS]),
            ):
                words[at + field] = value
        words[Header.SAMPLES] = taken + 1

    def _seat(self, id: int) -> int:
        return self.board.layout.seat(id - 1)

    def _slot(self, id: int) -> int:
        return self.board.layout.slot(id)

    def _event(self, event: str, **fields: Any) -> None:
        write_event(self.board, {"at": round(time.time(), 6), "event": event, **fields})

    def _about(self, event: str, id: int, **fields: Any) -> None:
        pid = self._words[self._seat(id) + Seat.PID]
        self._event(event, slot=id, pid=pid, generation=GENERATION, **fields)

    def _log(self, level: str, id: int, action: str, text: str, *values: Any) -> None:
        pid = self._words[self._seat(id) + Seat.PID]
        extra = {"action": action, "slot": id, "worker": pid}
        getattr(logger, level)(f"slot={id} pid={pid} {text}", *values, extra=extra)
