"""How long a worker's stacks are awaited, and when code in C is asked for them: the same for a command and for the arbiter."""

from __future__ import annotations

import contextlib
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.arbiter.children import Child, Start
from django_workerguard.arbiter.slow_requests import SlowRequests
from django_workerguard.arbiter.stack_dump import open_dump
from django_workerguard.arbiter.stack_requests import Asked
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import message as m
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.layout import Layout, SeatKind
from django_workerguard.scoreboard.stack_format import END, FORCE_AFTER, QUIET, AwaitedDump, Step
from django_workerguard.worker.register import Register
from tests.unit.fleets import ready_fleet

FRAMES = 'Current thread 0x7 (most recent call first):\n  File "views.py", line 1 in report\n'


@given(st.lists(st.floats(0.001, 100), min_size=30, max_size=30))
def test_a_worker_that_writes_nothing_is_forced_once_and_then_given_up(pauses):
    awaited, now, steps = AwaitedDump(0.0), 0.0, []
    for pause in [*pauses, *[2 * FORCE_AFTER] * 2]:  # twice, because the sum of the pauses is rounded
        now += pause
        awaited, step = awaited.seen("", now)
        steps.append(step)
        if step is Step.DONE:
            break
    assert steps[-1] is Step.DONE
    assert steps.count(Step.FORCE) == 1
    assert now >= 2 * FORCE_AFTER


def test_what_is_complete_or_grows_no_more_is_taken():
    awaited, step = AwaitedDump(0.0).seen("Thread", 0.1)
    assert step is Step.WAIT
    assert awaited.seen(f"Thread\n{END}", 0.2)[1] is Step.DONE
    assert awaited.seen("Thread", 0.1 + QUIET / 2)[1] is Step.WAIT
    assert awaited.seen("Thread", 0.2 + QUIET)[1] is Step.DONE
    awaited, step = awaited.seen("Thread, more", 0.25)
    assert step is Step.WAIT, "it still grows"


class StackRequests:
    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.asked: list[bool] = []

    def ask(self, seat: int, *, forced: bool = False) -> Asked:
        self.asked.append(forced)
        if forced:
            os.write(self.fd, FRAMES.encode())
        return Asked(Child(101, Start(SeatKind.WORKER, seat, 1, 1, self.fd)), 0)


@pytest.fixture
def tracker():
    board = Board.create(Layout(seats=4, slots=2), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=1)
    tracker.fleet = ready_fleet(1)
    tracker.tell(m.Observed((m.Reading(1, tracker.fleet.workers[1].state, 1, in_flight=1),), 0.0))
    Register(board, 1, lambda: 7).begin(b"GET /report/")
    yield tracker
    board.close()


@pytest.fixture
def stack_requests():
    fd = open_dump()
    yield StackRequests(fd)
    with contextlib.suppress(OSError):
        os.close(fd)


def test_an_arbiter_that_looks_each_second_has_the_stack_forced(tracker, stack_requests):
    now = [0.0]
    slow = SlowRequests(tracker, stack_requests, clock=lambda: now[0])
    for second in range(6):
        now[0] = float(second)
        slow.look(1e-9)
    assert stack_requests.asked == [False, True]
    (event,) = [event for event in read_events(tracker.board) if event["event"] == "slow-request"]
    assert event["stack"] == "views.py:1 report"


def test_a_worker_that_has_ended_meanwhile_is_not_read(tracker, stack_requests):
    """The descriptor of its file is closed, and may be another file's."""
    now = [0.0]
    slow = SlowRequests(tracker, stack_requests, clock=lambda: now[0])
    slow.look(1e-9)
    tracker.tell(m.Exited(1, 0.5))
    os.close(stack_requests.fd)
    for second in (1.0, 2.0):
        now[0] = second
        slow.look(1e-9)
