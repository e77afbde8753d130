"""A flood of requests on the control socket leaves the journal what else it has."""

from __future__ import annotations

import logging

from django_workerguard.arbiter.control_socket import Request
from django_workerguard.arbiter.event_log import ASKED_MOST, ASKED_PERIOD
from django_workerguard.arbiter.rate_limit import RateLimit
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.layout import Layout


def test_a_ration_lets_its_number_pass_in_each_period():
    ration = RateLimit(3, 10.0)
    assert [ration.take(at) for at in (0.0, 1.0, 2.0, 3.0, 9.9)] == [True] * 3 + [False] * 2
    assert ration.left_out == 2
    assert ration.take(10.0)


def test_a_flood_of_requests_does_not_wipe_the_journal():
    board = Board.create(Layout(seats=2, slots=2), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=1)
    request = Request(do="reload", arguments={}, pid=1, uid=0)
    for number in range(20_000):
        tracker.event_log.asked(request, "no", 100.0 + number / 1000)
    asked = [event for event in read_events(board) if event["event"] == "asked"]
    assert len(asked) == ASKED_MOST
    tracker.event_log.asked(request, "no", 100.0 + ASKED_PERIOD)
    assert list(read_events(board))[-1]["left_out"] == 20_000 - ASKED_MOST
    board.close()


def test_a_target_that_changes_all_the_time_does_not_wipe_the_journal():
    board = Board.create(Layout(seats=2, slots=2), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=1)
    for number in range(20_000):
        tracker.event_log.scaled(1 + number % 2, "control", 100.0 + number / 1000)
    scaled = [event for event in read_events(board) if event["event"] == "scaled"]
    assert len(scaled) == ASKED_MOST
    tracker.event_log.scaled(2, "control", 100.0 + ASKED_PERIOD)
    assert list(read_events(board))[-1]["left_out"] == 20_000 - ASKED_MOST
    board.close()
