"""What is asked of a fleet that cannot be done is refused, with the reason, and the backlog is not guessed."""

from __future__ import annotations

import logging

import pytest

from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({"all": True}, "no slot has a worker to replace: see workerguard status"),
        ({"slot": 1}, "slot 1 has no worker to replace: see workerguard explain 1"),
        ({"slot": 3}, "there is no slot 3: the slots are 1 to 2"),
        ({"slot": True}, "there is no slot True: the slots are 1 to 2"),
        ({}, "there is no slot None: the slots are 1 to 2"),
    ],
)
def test_nobody_is_replaced_where_nobody_is(asked, refused):
    board = Board.create(Layout(seats=4, slots=2), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=2)
    assert tracker.recycle(asked, "by hand") == refused
    board.close()


class Listener:
    def __init__(self, waiting: int) -> None:
        self.get_backlog = lambda: waiting


@pytest.mark.parametrize(
    ("waiting", "backlog"),
    [((), None), ((0,), 0), ((3, 4), 7), ((-1,), None), ((-1, 5), 5), ((-1, 0), None)],
)
def test_a_backlog_that_the_kernel_does_not_tell_is_unknown(waiting, backlog):
    """gunicorn says -1 for a unix socket."""
    board = Board.create(Layout(seats=4, slots=2), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=2)
    tracker.measure(100.0, [Listener(count) for count in waiting])
    assert tracker.fleet.backlog == backlog
    assert board.words[Header.BACKLOG] == (0 if backlog is None else backlog + 1)
    board.close()
