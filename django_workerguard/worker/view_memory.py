"""Charge the growth of this worker's private memory to the view that caused it. Runs in the worker.

Only a request that was alone in the worker, from its beginning to its end, can be charged. A look at the memory costs
about two microseconds, so at most some fifty requests a second are measured, at random times, whatever their view.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import TABLE_WORDS, VIEWS, Seat, ViewRow
from django_workerguard.scoreboard.view_memory import NO_VIEW, OTHER_VIEWS, encoded

FIRST_USES = 3  # measured requests of a view in a worker, whose growth is kept apart
PAUSE = 20_000_000  # ns from the beginning of a measured request to that of the next one, on average
NEVER = 1 << 64
PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_reader() -> Callable[[], int]:
    """Return a function that returns this process's private memory in bytes, without the pages of files.

    Both raise OSError; the function ValueError and IndexError, if somebody has closed its descriptor and opened another
    file as it.
    """
    pread, statm = os.pread, os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def private_memory() -> int:
        _, resident, shared, _ = pread(statm, 128, 0).split(None, 3)
        return (int(resident) - int(shared)) * PAGE

    return private_memory


class ViewTable:
    """The writer of a seat's table.

    ``due`` is the time in monotonic nanoseconds from which a request is to be measured, ``token`` the one that is, and
    ``view`` its view.
    """

    def __init__(self, board: Board, seat: int, read: Callable[[], int] | None = None) -> None:
        self._words = board.words
        self._board = board
        self._first = board.layout.views(seat) + TABLE_WORDS
        self._not_alone = board.layout.seat(seat) + Seat.NOT_ALONE
        self._rows: dict[str, int] = {}
        self._before = 0
        self._random = random.Random().random
        self.token = 0
        self.view = ""  # of the request that is measured; "" until Django has chosen it
        self.due = 0
        try:
            self._read = read or memory_reader()
        except OSError:
            self.due = NEVER

    def begin(self, token: int, started: int) -> None:
        """Begin to measure a request that was begun at a time in monotonic nanoseconds."""
        self.view = ""
        self.token = token  # first: another thread that begins a request now finds it
        self._before = self._look()
        self._pause(started)

    def spoil(self, started: int) -> None:
        """Measure nothing for now: requests are in hand together."""
        self.token = 0
        self._words[self._not_alone] += 1
        self._pause(started)

    def _pause(self, started: int) -> None:
        if self.due != NEVER:
            self.due = started + int(2 * PAUSE * self._random())

    def end(self, token: int) -> None:
        """Charge the request that was measured to its view."""
        now = self._look()
        if (
            self.token != token
        ):  # another thread has begun a request, or the memory cannot be looked at any more
            return
        self.token = 0
        words, view, growth = self._words, self.view or NO_VIEW, now - self._before
        row = self._rows.get(view) or self._new_row(view)
        words[row + ViewRow.LARGEST] = max(words[row + ViewRow.LARGEST], growth)
        if words[row + ViewRow.FIRST_USES] < FIRST_USES:
            words[row + ViewRow.FIRST_USES] += 1
            words[row + ViewRow.FIRST_USE] += max(0, growth)
            return
        words[row + ViewRow.MEASURED] += 1
        if growth > 0:
            words[row + ViewRow.GREW] += growth
        else:
            words[row + ViewRow.SHRANK] -= growth

    def _look(self) -> int:
        try:
            return self._read()
        except (OSError, ValueError, IndexError):  # somebody has closed the descriptor, or uses its number
            self.token, self.due = 0, NEVER
            return 0

    def _new_row(self, view: str) -> int:
        index = len(self._rows)
        if index < VIEWS - 1 or view == OTHER_VIEWS:
            row = self._first + min(index, VIEWS - 1) * ViewRow.WORDS
            self._board.write_bytes(row + ViewRow.NAME, encoded(view))
        else:
            row = self._rows.get(OTHER_VIEWS) or self._new_row(OTHER_VIEWS)
        self._rows[view] = row
        return row
