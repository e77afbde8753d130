"""Requests are counted exactly, by however many threads."""

from __future__ import annotations

import sys
import threading

import pytest

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import durations_as_dict, write_bounds
from django_workerguard.scoreboard.layout import DURATIONS_WORDS, Layout, Seat
from django_workerguard.server.workers.request_counter import LockedRequestCount, request_count


@pytest.fixture
def hurried_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("make", [request_count, LockedRequestCount])
def test_threads_lose_no_count(make, hurried_threads):
    board = Board.create(Layout(seats=2, slots=1), None)
    write_bounds(board, (1.0, 60.0))
    count = make(board, 1)
    threads, each = 8, 20_000
    started = monotonic_ns()

    def work():
        for number in range(each):
            count.started()
            count.ended(500 if number % 2 else 200, started)
            count.memory_error()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    words = board.words[board.layout.seat(1) : board.layout.seat(1) + Seat.WORDS]
    histograms = durations_as_dict(board.words[board.layout.histograms(1) :][:DURATIONS_WORDS].tolist(), 3)
    assert {status: sum(one["buckets"]) for status, one in histograms.items()} == {
        "2xx": threads * each // 2,
        "5xx": threads * each // 2,
    }
    assert words[Seat.REQUESTS] == threads * each
    assert words[Seat.ERRORS_5XX] == threads * each // 2
    assert words[Seat.MEMORY_ERRORS] == threads * each
    assert words[Seat.IN_FLIGHT] == 0
