"""A child whose end cannot be written down holds up no other child, and not its slot."""

from __future__ import annotations

import logging

import pytest

from django_workerguard.arbiter.burial import MOST_TRIES, Burial
from django_workerguard.arbiter.children import Children
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy.action import Abort, Spawn
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Phase
from django_workerguard.scoreboard.layout import Layout, Orders, Seat, SeatKind, SeatState
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
