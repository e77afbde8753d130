"""What the server shows of a process that was killed and that the kernel does not end."""

from __future__ import annotations

import logging
import os

import pytest

from django_workerguard.arbiter.children import Children
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy
from django_workerguard.report.outcome import Outcome, Recycle
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Phase
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.layout import Layout, Orders, Seat, SeatKind, SeatState
from django_workerguard.scoreboard.snapshot import snapshot


class Fork:
    """Has no processes: the pids are those of this one and of its parent."""

    orders = Orders.NONE

    def __init__(self) -> None:
        self.pids = [os.getpid(), os.getppid()]

    def handle(self, start):
        return None

    def fork(self, start, handle, others):
        return self.pids.pop(0), None


@pytest.fixture
def tracker():
    """A tracker of two slots: their workers load."""
    board = Board.create(Layout(seats=6, slots=4), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(stand_in=False), target=2)
    children = Children(tracker.seats, Fork(), tracker.event_log)
    for slot in (1, 2):
        start = children.reserve(SeatKind.WORKER, slot, 1, Orders.NONE)
        tracker.spawning(a.Spawn(slot, 1, 60.0), start.seat, 0.0)
        tracker.spawned(children.start(start).seat, 0.0)
    yield tracker
    board.close()


def seat_of(tracker: Tracker, slot: int) -> int:
    return tracker.fleet.incumbent(slot).seat


def all_ready(tracker: Tracker) -> None:
    for slot in (1, 2):
        tracker.board.words[tracker.board.layout.seat(seat_of(tracker, slot)) + Seat.STATE] = SeatState.READY
    tracker.observe(1.0)


def test_a_recycle_is_over_when_the_old_worker_has_ended_or_cannot():
    following = Recycle("lazy", slots=[1], pids=[101])
    assert following.take({"event": "killed", "slot": 1, "pid": 101}) is None
    event = {"event": "not-ended", "slot": 1, "pid": 101}
    assert following.take(event) == Outcome("done", "recycle: done.", event)


def test_a_slot_above_the_target_is_not_shown_for_a_process_that_the_kernel_does_not_end(tracker):
    all_ready(tracker)
    seat = seat_of(tracker, 2)
    tracker.tell(m.TargetChanged(1))
    tracker.retired(a.Retire(seat, Reason(Rule.SCALE)), 2.0)
    tracker.killed(a.Kill(seat, Reason(Rule.WORKER_RELOAD_MERCY)), 3.0)
    for now, slots in ((7.0, [1, 2]), (8.0, [1])):
        tracker.observe(now)
        tracker.publish(now, phase=Phase.SERVING)
        assert [slot["slot"] for slot in snapshot(tracker.board)["slots"]] == slots
