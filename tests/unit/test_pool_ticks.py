"""A step of the pool's tick that fails keeps no other step from running."""

from __future__ import annotations

import logging
import os

import pytest

from django_workerguard.config.options import GuardOptions
from django_workerguard.contrib.celery.pool_arbiter import PoolArbiter
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, Phase
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.places import Opened


class Pool:
    """Celery's, with the processes of this test as its children."""

    target = 1

    def __init__(self) -> None:
        self.forked: list[int] = []

    def fork_child(self, index, handle, others):
        self.forked.append(index)
        return os.getpid()


@pytest.fixture
def arbiter():
    board = Board.create(Layout(seats=8, slots=8), None)
    yield PoolArbiter(
        GuardOptions(), Opened(board), logging.getLogger("test"), node="celery@test", processes=1
    )
    board.close()


@pytest.mark.parametrize("step", ["serve", "observe", "measure"])
def test_a_step_that_fails_at_every_tick_stops_no_start_of_a_child(arbiter, monkeypatch, step):
    def fail(*arguments):
        raise OSError

    monkeypatch.setattr(arbiter._tracker, step, fail)
    pool = Pool()
    arbiter.tick(pool)
    assert pool.forked == [0]
    assert arbiter.board.words[Header.PHASE] == Phase.SERVING
    assert arbiter.board.words[Header.ERRORS] == 1


@pytest.mark.parametrize("step", ["observe", "measure"])
def test_a_step_that_fails_while_the_pool_closes_stops_no_publication(arbiter, monkeypatch, step):
    def fail(*arguments):
        raise OSError

    arbiter.stopping()
    monkeypatch.setattr(arbiter._tracker, step, fail)
    arbiter.board.words[Header.PHASE] = Phase.SERVING
    arbiter.publish_while_closing()
    assert arbiter.board.words[Header.PHASE] == Phase.STOPPING
