"""A child whose end cannot be written down holds up no other child, and not its slot."""

from __future__ import annotations

import logging

import pytest

from django_workerguard.arbiter.burial import MOST_TRIES, Burial
from django_workerguard.arbiter.children import Children
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import message as m
from django_workerguard.policy.action import Abort, Spawn, SpawnMold
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Phase
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.layout import Layout, Orders, Seat, SeatKind, SeatState, Slot
from django_workerguard.scoreboard.snapshot import snapshot
from tests.unit.fleets import Fork


@pytest.fixture
def fleet():
    board = Board.create(Layout(seats=4, slots=4), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=2)
    children = Children(tracker.seats, Fork(), tracker.event_log)
    for slot in (1, 2):
        start = children.reserve(SeatKind.WORKER, slot, 1, Orders.NONE)
        tracker.spawning(Spawn(slot, 1, 60.0), start.seat, 0.0)
        child = children.start(start)
        tracker.spawned(child.seat, 0.0)
        children.ended(child.pid, Exit(None, 9))
    yield tracker, children
    board.close()


def test_a_burial_that_fails_holds_up_no_other_and_its_slot_heals(fleet):
    tracker, children = fleet
    failed = []

    def bury(child, end):
        if child.start.slot == 1:
            raise MemoryError
        tracker.buried(child.seat, end, "", 1.0)

    def survives(step, *arguments):
        try:
            step(*arguments)
        except MemoryError:
            failed.append(step)
            return False
        return True

    burial = Burial(tracker, children, bury=bury, survives=survives, clock=lambda: 1.0)
    assert [child.start.slot for child in burial.run()] == [2]
    assert list(tracker.fleet.workers) == [0]
    for _ in range(MOST_TRIES - 2):
        assert list(burial.run()) == []
    assert [child.start.slot for child in burial.run()] == [1]
    assert len(failed) == MOST_TRIES
    assert not tracker.fleet.workers
    assert not children.dead()


def survives(step, *arguments):
    try:
        step(*arguments)
    except MemoryError:
        return False
    return True


def test_a_burial_that_is_tried_again_counts_once(fleet, monkeypatch):
    tracker, children = fleet
    board = tracker.board
    at, seat = board.layout.slot(1), board.layout.seat(0)
    board.words[seat + Seat.STATE] = SeatState.READY
    tracker.observe(0.5)
    tracker.publish(0.5, phase=Phase.SERVING)
    board.words[seat + Seat.REQUESTS] = 100
    board.words[seat + Seat.ERRORS_5XX] = 7
    failures = [1, 1, 2, 2]  # of the worker that was ready, and of the one whose load failed

    def write_last_error(slot, error, *, steps=()):
        if slot in failures:
            failures.remove(slot)
            raise MemoryError

    monkeypatch.setattr(board, "write_last_error", write_last_error)
    burial = Burial(
        tracker,
        children,
        bury=lambda child, end: tracker.buried(child.seat, end, "", 1.0),
        survives=survives,
        clock=lambda: 1.0,
    )
    for _ in range(MOST_TRIES):
        list(burial.run())
        tracker.observe(1.0)
        tracker.publish(1.0, phase=Phase.SERVING)
        assert (board.words[at + Slot.REQUESTS], board.words[at + Slot.ERRORS_5XX]) == (100, 7)
        assert board.words[at + Slot.EXITS] == 1
    assert not children.dead()
    for tally, count in (("exits", 2), ("load_failures", 1)):
        assert sum(board.read_tallies()[tally].values()) == count
    (event,) = [one for one in read_events(board) if one["event"] == "exited" and one["slot"] == 1]
    assert (event["requests"], event["errors_5xx"]) == (100, 7)


def test_a_worker_that_is_given_up_has_its_requests_counted(fleet):
    tracker, children = fleet
    board = tracker.board
    board.words[board.layout.seat(0) + Seat.REQUESTS] = 100

    def bury(child, end):
        raise MemoryError

    burial = Burial(tracker, children, bury=bury, survives=survives, clock=lambda: 1.0)
    for _ in range(MOST_TRIES):
        list(burial.run())
    tracker.publish(1.0, phase=Phase.SERVING)
    assert board.words[board.layout.slot(1) + Slot.REQUESTS] == 100
    assert not tracker.fleet.workers


def test_every_kind_of_child_can_be_given_up():
    board = Board.create(Layout(seats=6, slots=4), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=2)
    fork, closed = Fork(), []
    children = Children(tracker.seats, fork, tracker.event_log, mold_fork=fork)
    mold = children.start(children.reserve(SeatKind.MOLD, 0, 1, Orders.NONE))
    tracker.mold_spawned(SpawnMold(1, 60.0), mold.seat, 0.0)
    asked = children.reserve(SeatKind.WORKER, 1, 1, Orders.NONE)
    children.ask(mold.seat, asked)
    tracker.spawning(Spawn(1, 1, 60.0, mold=mold.seat), asked.seat, 0.0)
    stand_in = children.start(children.reserve(SeatKind.STAND_IN, 0, 1, Orders.NONE))
    tracker.tell(m.StandInSpawned(stand_in.seat, stand_in.pid, 0.0))
    for child in (mold, stand_in):
        children.ended(child.pid, Exit(None, 9))

    def bury(child, end):
        raise MemoryError

    burial = Burial(
        tracker, children, bury=bury, survives=survives, clock=lambda: 1.0, close_channel=closed.append
    )
    for _ in range(MOST_TRIES):
        list(burial.run())
    fleet = tracker.fleet
    assert (fleet.molds, fleet.workers, fleet.stand_in.seat) == ({}, {}, None)
    assert (fleet.stand_in.strikes, fleet.record(1).next_try <= 1.0) == (1, True), "others may be started"
    assert mold.seat in closed
    assert not tracker.seats.pids
    board.close()


def listed_and_counted(board: Board) -> tuple[int, int]:
    shot = snapshot(board)
    return sum(slot["state"] == "ready" and slot["pid"] is not None for slot in shot["slots"]), shot["ready"]


def test_a_snapshot_agrees_with_itself_between_an_exit_and_the_next_publication(fleet):
    """Between the two new workers are forked and hooks of the site run, which may take any time."""
    tracker, _ = fleet
    board = tracker.board
    for seat in (0, 1):
        board.words[board.layout.seat(seat) + Seat.STATE] = SeatState.READY
    tracker.observe(1.0)
    tracker.publish(1.0, phase=Phase.SERVING)
    assert listed_and_counted(board) == (2, 2)
    tracker.aborted(Abort(0, Reason(Rule.TIMEOUT)), 1.0)
    tracker.publish(1.0, phase=Phase.SERVING)
    assert listed_and_counted(board) == (1, 1)
    tracker.buried(1, Exit(None, 9), "", 2.0)
    assert listed_and_counted(board) == (0, 0)
    tracker.publish(2.0, phase=Phase.SERVING)
    assert listed_and_counted(board) == (0, 0)
