"""Report how late the event loop is: a callback waits while a view blocks or computes. Runs in the worker."""

from __future__ import annotations

import asyncio

from django_workerguard.scoreboard.layout import Seat
from django_workerguard.worker.seat_handle import SeatHandle

EVERY = 0.5  # seconds
WINDOW = 10.0  # seconds for which the longest delay is reported, at least; at most twice as long


def watch_loop(handle: SeatHandle) -> None:
    """Report the longest delay of the running loop in the worker's seat."""
    LoopLag(asyncio.get_running_loop(), handle.board.words, handle.base + Seat.LOOP_LAG).start()


class LoopLag:
    """Asks the loop to be called at a time, again and again, and writes by how much it was late: ns, + 1."""

    def __init__(self, loop: asyncio.AbstractEventLoop, words: memoryview, at: int) -> None:
        self._loop = loop
        self._words = words
        self._at = at
        self._due = self._window_ends = 0.0
        self._longest, self._before = 0.0, 0.0  # seconds, in this window and in the one before

    def start(self) -> None:
        self._window_ends = self._loop.time() + WINDOW
        self._ask()

    def _ask(self) -> None:
        self._due = self._loop.time() + EVERY
        self._loop.call_at(self._due, self._called)

    def _called(self) -> None:
        now = self._loop.time()
        if now >= self._window_ends:
            self._before, self._longest = self._longest, 0.0
            self._window_ends = now + WINDOW
        self._longest = max(self._longest, now - self._due)
        self._words[self._at] = int(max(self._longest, self._before) * 1e9) + 1
        self._ask()
