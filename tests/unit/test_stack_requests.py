"""What the arbiter asks of children for their stacks: of those that were aborted too, until they have ended."""

from __future__ import annotations

import logging
import os

import pytest

from django_workerguard.arbiter.children import Child, Start
from django_workerguard.arbiter.stack_dump import LONGEST_DUMP, open_dump, read_dump
from django_workerguard.arbiter.stack_requests import KEEP, StackRequests
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import action as a
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout, Orders, Seat, SeatKind, SeatState
from django_workerguard.scoreboard.stack_format import FORCE_AFTER, FORCED_STACKS_SIGNAL, STACKS_SIGNAL

PID = 500


class Children:
    """One child, which notes the signals that it gets."""

    def __init__(self, seat: int) -> None:
        self.child = Child(PID, Start(SeatKind.WORKER, seat, 1, 1, open_dump()))
        self.signals: list[int] = []

    def in_seat(self, seat):
        return self.child

    def by_pid(self, pid):
        return self.child

    def signal(self, seat, number):
        self.signals.append(number)


@pytest.fixture
def scene():
    board = Board.create(Layout(seats=2, slots=1), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=1)
    seat = tracker.seats.take(SeatKind.WORKER, slot=1, generation=1, orders=Orders.NONE)
    tracker.seats.adopt(seat, PID)
    board.words[board.layout.seat(seat) + Seat.STATE] = SeatState.READY
    tracker.spawning(a.Spawn(1, 1, 60.0), seat, 0.0)
    tracker.spawned(seat, 0.0)
    children, now = Children(seat), [100.0]
    yield tracker, children, StackRequests(children, tracker, clock=lambda: now[0]), now
    os.close(children.child.start.dump_fd)
    board.close()


def test_an_old_answer_is_forgotten_but_not_the_stacks_of_an_abort(scene):
    tracker, children, requests, now = scene
    seat, fd = children.child.seat, children.child.start.dump_fd
    for is_aborted in (False, True):
        requests.ask(seat)
        os.write(fd, b"stacks")
        if is_aborted:
            tracker.aborted(a.Abort(seat, Reason(Rule.TIMEOUT, "30 s")), now[0])
        now[0] += KEEP
        requests.tick()
        assert read_dump(fd) == ("stacks" if is_aborted else "")


def test_code_in_c_is_asked_once_if_an_aborted_child_does_not_end(scene):
    tracker, children, requests, now = scene
    tracker.aborted(a.Abort(children.child.seat, Reason(Rule.TIMEOUT, "30 s")), now[0])
    requests.tick()
    assert children.signals == [], "Python may still answer"
    for _ in range(3):
        now[0] += FORCE_AFTER
        requests.tick()
    assert children.signals == [FORCED_STACKS_SIGNAL]


def test_a_child_that_is_asked_and_goes_on_is_not_forced(scene):
    _, children, requests, now = scene
    requests.ask(children.child.seat)
    now[0] += FORCE_AFTER
    requests.tick()
    assert children.signals == [STACKS_SIGNAL]


def test_of_a_long_dump_the_end_is_read(scene):
    _, children, _, _ = scene
    fd = children.child.start.dump_fd
    os.write(fd, b"a" * LONGEST_DUMP + b"end")
    assert len(dump := read_dump(fd)) == LONGEST_DUMP
    assert dump.endswith("aend")
    assert read_dump(fd, LONGEST_DUMP) == "end"
