"""Report how late the event loop is: a callback waits while a view blocks or computes. Runs in the worker.

The worker writes when the loop has to call back next, so that a reader also sees the delay of a loop that blocks just now.
"""

from __future__ import annotations

import asyncio

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.layout import Seat
from django_workerguard.worker.seat_handle import SeatHandle

EVERY = 500_000_000  # ns
WINDOW = 10_000_000_000  # ns for which the longest delay is reported, at least; at most twice as long


def watch_loop(handle: SeatHandle) -> None:
    """Report the longest delay of the running loop in the worker's seat."""
    LoopLag(asyncio.get_running_loop(), handle.board.words, handle.base).start()


class LoopLag:
    """Asks the loop to be called at a time, again and again, and writes by how much it was late.

    ``base``: the offset of the seat.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, words: memoryview, base: int) -> None:
        self._loop = loop
        self._words = words
        self._base = base
        self._window_ends = 0
        self._longest, self._before = 0, 0  # ns, in this window and in the one before

    def start(self) -> None:
        self._window_ends = monotonic_ns() + WINDOW
        self._ask()

    def _ask(self) -> None:
        self._loop.call_later(EVERY / 1e9, self._called)
        self._words[self._base + Seat.LOOP_DUE] = monotonic_ns() + EVERY

    def _called(self) -> None:
        now = monotonic_ns()
        if now >= self._window_ends:
            self._before, self._longest = self._longest, 0
            self._window_ends = now + WINDOW
        self._longest = max(self._longest, now - self._words[self._base + Seat.LOOP_DUE])
        self._words[self._base + Seat.LOOP_LAG] = max(self._longest, self._before)
        self._ask()
