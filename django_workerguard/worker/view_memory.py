"""Charge the growth of this worker's private memory to the view that caused it. Runs in the worker.

Only a request that was alone in the worker, from its beginning to its end, can be charged. When it ends, the server
still has its response and its body, so what is freed before the next request begins is taken off again. A look at the
memory costs about two microseconds, so at most some fifty requests a second are measured, at random times, whatever
their view.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from struct import Struct

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.layout import TABLE_WORDS, VIEWS, Seat, ViewRow
from django_workerguard.scoreboard.view_memory import NO_VIEW, OTHER_VIEWS, encoded

FIRST_USES = 3  # measured requests of a view in a worker, whose growth is kept apart
PAUSE = 20_000_000  # ns from the beginning of a measured request to that of the next one, on average
NEVER = 1 << 64
PAGE = os.sysconf("SC_PAGE_SIZE")
ENDED = 1  # in place of a token: the request that was measured has ended, and none has begun since
ROWS = VIEWS - 1  # the last row is that of OTHER_VIEWS

Sums = tuple[int, int, int, int, int, int]  # the words of a row before its name
NO_SUMS: Sums = (0, 0, 0, 0, 0, 0)
_write_sums = Struct("=6Q").pack_into


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

    The rows are those of the views that have grown most, and the last one is of all others.

    ``due`` is the time in monotonic nanoseconds from which a request is to be measured, ``token`` the one that is, and
    ``view`` its view.
    """

    def __init__(self, board: Board, seat: int, read: Callable[[], int] | None = None) -> None:
        self._words = board.words
        self._board = board
        self._first = board.layout.views(seat) + TABLE_WORDS
        self._not_alone = board.layout.seat(seat) + Seat.NOT_ALONE
        self._sums: dict[str, Sums] = {}  # of every view
        self._rows: dict[str, int] = {}  # of the views that have one
        self._others = NO_SUMS
        self._before = 0
        self._charged = ("", NO_SUMS, 0, 0)  # view, its sums before, growth, and the memory after it
        self._lock = threading.Lock()
        self._random = random.Random().random
        self.token = 0
        self.view = ""  # of the request that is measured; "" until Django has chosen it
        self.due = 0
        try:
            self._read = read or memory_reader()
        except OSError:
            self.due = NEVER

    def begin(self, started: int) -> None:
        """Begin to measure the request ``token``, which was begun at a time in monotonic nanoseconds."""
        self.view = ""
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
        # else another thread has begun a request, or the memory cannot be looked at any more
        if self.token == token:
            growth = now - self._before
            self.charge(self.view or NO_VIEW, growth, now)
            self.token = ENDED if growth > 0 else 0

    def charge(self, view: str, growth: int, after: int = 0) -> None:
        """Add the growth of a request to the sums of its view. ``after``: the memory at its end."""
        with self._lock:
            before = self._sums.get(view, NO_SUMS)
            self._set(view, _with_growth(before, growth))
            self._charged = (view, before, growth, after)

    def settle(self) -> None:
        """Take off what has been freed since the request that was measured has ended."""
        with self._lock:
            view, before, growth, after = self._charged
            self.token = 0
            freed = min(growth, after - self._look())
            if freed > 0 and self.due != NEVER:
                self._set(view, _with_growth(before, growth - freed))
                self._charged = (view, before, growth - freed, after - freed)

    def _look(self) -> int:
        try:
            return self._read()
        except (OSError, ValueError, IndexError):  # somebody has closed the descriptor, or uses its number
            self.token, self.due = 0, NEVER
            return 0

    def _set(self, view: str, sums: Sums) -> None:
        before = self._sums.get(view, NO_SUMS)
        self._sums[view] = sums
        row = self._rows.get(view) or self._take_row(view, before)
        if row:
            self._write(row, sums)
        else:
            self._add_to_others(sums, before)

    def _take_row(self, view: str, before: Sums) -> int:
        """Return a free row, or that of a view that has grown less, for a view; 0 if there is none."""
        index = len(self._rows)
        row = self._first + index * ViewRow.WORDS
        if index == ROWS:
            least = min(self._rows, key=self._weight)
            if self._weight(view) <= self._weight(least):
                return 0
            row = self._rows.pop(least)
            self._add_to_others(self._sums[least], before)
        # first: a reader must not find the sums of one view with the name of another
        self._write(row, NO_SUMS)
        self._write_name(row, view)
        self._rows[view] = row
        return row

    def _weight(self, view: str) -> int:
        _, grew, shrank, _, _, largest = self._sums[view]
        return max(grew - shrank, largest)

    def _add_to_others(self, sums: Sums, before: Sums) -> None:
        """Add the sums of a view to those of the views without a row, in place of earlier sums that are among them."""
        measured, grew, shrank, first_uses, first_use, _ = map(sum, zip(self._others, sums, strict=True))
        self._others = (
            measured - before[0],
            grew - before[1],
            shrank - before[2],
            first_uses - before[3],
            first_use - before[4],
            max(self._others[5], sums[5]),
        )
        row = self._first + ROWS * ViewRow.WORDS
        self._write(row, self._others)
        self._write_name(row, OTHER_VIEWS)

    def _write(self, row: int, sums: Sums) -> None:
        _write_sums(self._board.bytes, row * WORD, *sums)

    def _write_name(self, row: int, view: str) -> None:
        self._board.write_bytes(row + ViewRow.NAME, encoded(view))


def _with_growth(sums: Sums, growth: int) -> Sums:
    """Return the sums of a view after one more request."""
    measured, grew, shrank, first_uses, first_use, largest = sums
    added, largest = max(0, growth), max(largest, growth)
    if first_uses < FIRST_USES:
        return measured, grew, shrank, first_uses + 1, first_use + added, largest
    return measured + 1, grew + added, shrank + added - growth, first_uses, first_use, largest
