"""Requests are counted exactly, by however many threads."""

from __future__ import annotations

import sys
import threading

import pytest

from django_workerguard.scoreboard.layout import Seat
from django_workerguard.server.workers.request_counter import LockedRequestCount, request_count


@pytest.fixture
def hurried_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("make", [request_count, LockedRequestCount])
def test_threads_lose_no_count(make, hurried_threads):
    words = memoryview(bytearray(8 * 64)).cast("Q")
    count = make(words, 0)
    threads, each = 8, 20_000

    def work():
        for number in range(each):
            count.started()
            count.ended(500 if number % 2 else 200)
            count.memory_error()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert words[Seat.REQUESTS] == threads * each
    assert words[Seat.ERRORS_5XX] == threads * each // 2
    assert words[Seat.MEMORY_ERRORS] == threads * each
    assert words[Seat.IN_FLIGHT] == 0
