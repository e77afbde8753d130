"""What a worker reports of the executors of its event loop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.server.workers.executors import watch


@pytest.fixture
def words():
    return memoryview(bytearray(8)).cast("Q")


@pytest.fixture
def executor(words):
    with ThreadPoolExecutor(2) as executor:
        watch(executor, words, 0)
        yield executor


class Calls:
    """Calls that each wait until they may end."""

    def __init__(self, executor) -> None:
        self._executor = executor
        self._begun = threading.Semaphore(0)
        self._may_end = threading.Semaphore(0)
        self.futures = []

    def ask(self, count: int = 1) -> None:
        self.futures += [self._executor.submit(self._call) for _ in range(count)]

    def _call(self) -> None:
        self._begun.release()
        self._may_end.acquire()

    def wait_begun(self, count: int) -> None:
        for _ in range(count):
            assert self._begun.acquire(timeout=10)

    def end(self, count: int) -> None:
        for _ in range(count):
            self._may_end.release()


def test_since_when_no_call_has_begun_while_calls_wait(words, executor):
    calls = Calls(executor)
    calls.ask(2)
    calls.wait_begun(2)
    assert words[0] == 0, "it is busy, and no call waits"
    begun = monotonic_ns()
    calls.ask(2)
    first = words[0]
    assert begun <= first <= monotonic_ns()
    calls.ask()
    assert words[0] == first
    calls.end(1)
    calls.wait_begun(1)
    assert words[0] > first, "one has begun, and two wait"
    calls.end(4)
    wait(calls.futures, timeout=10)
    assert words[0] == 0


def test_a_call_that_is_cancelled_while_it_waits_waits_no_longer(words, executor):
    calls = Calls(executor)
    calls.ask(3)
    calls.wait_begun(2)
    assert words[0]
    assert calls.futures[2].cancel()
    assert words[0] == 0
    calls.end(2)
    wait(calls.futures, timeout=10)
    assert executor.submit(pow, 2, exp=5).result(10) == 32
    assert words[0] == 0


def test_a_call_that_is_refused_does_not_wait(words, executor):
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(pow, 2, 5)
    assert words[0] == 0


def test_errors_reach_the_caller(words, executor):
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(10)
    assert words[0] == 0
