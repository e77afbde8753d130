"""How much private memory each view has kept: tables of bounded size. Runs in readers and in the arbiter.

A worker writes the table of its seat: see `worker.view_memory`. When it is gone, the arbiter adds its table to that of
its slot, which holds one generation: other code may have cured a leak.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from django_workerguard.config.text import in_megabytes
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.in_hand import text_at, workers_in_seats
from django_workerguard.scoreboard.layout import LARGEST_WORD, TABLE_WORDS, VIEWS, Seat, ViewRow
from django_workerguard.values import value_class

MEMORY_VERSION = 1
NO_VIEW = "(no view)"  # a middleware or the URLconf answered
OTHER_VIEWS = "(other views)"  # for which the table has no row
NAMED = 3  # views that an event names
LEAST = 1 << 20  # bytes: what an event does not name
NAME_BYTES = (ViewRow.WORDS - ViewRow.NAME) * WORD


@value_class
class ViewMemory:
    """What one view has done to the memory of its workers; all sizes are in bytes.

    ``measured`` counts its requests whose growth is known, and ``retained`` is the sum of what they added and gave back.
    ``first_uses`` and ``first_use`` are the same of the first such requests in each worker, which are not among them:
    they import, compile templates, fill caches and connect. ``largest`` is the most that any single one added.
    """

    view: str
    measured: int = 0
    grew: int = 0
    shrank: int = 0
    first_uses: int = 0
    first_use: int = 0
    largest: int = 0

    @property
    def retained(self) -> int:
        return self.grew - self.shrank

    def __add__(self, other: ViewMemory) -> ViewMemory:
        return ViewMemory(
            self.view,
            measured=min(LARGEST_WORD, self.measured + other.measured),
            grew=min(LARGEST_WORD, self.grew + other.grew),
            shrank=min(LARGEST_WORD, self.shrank + other.shrank),
            first_uses=min(LARGEST_WORD, self.first_uses + other.first_uses),
            first_use=min(LARGEST_WORD, self.first_use + other.first_use),
            largest=max(self.largest, other.largest),
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "measured": self.measured,
            "retained_bytes": self.retained,
            "first_uses": self.first_uses,
            "first_use_bytes": self.first_use,
            "largest_bytes": self.largest,
        }


def summed(rows: Iterable[ViewMemory]) -> list[ViewMemory]:
    """Return one row for each view, the view that has retained the most first."""
    found: dict[str, ViewMemory] = {}
    for row in rows:
        found[row.view] = found[row.view] + row if row.view in found else row
    return sorted(found.values(), key=lambda row: (-row.retained, -row.largest, row.view))


def bounded(rows: Iterable[ViewMemory], most: int = VIEWS) -> list[ViewMemory]:
    """Return at most ``most`` rows: those of the views that have grown least become OTHER_VIEWS."""
    named = [row for row in summed(rows) if row.view != OTHER_VIEWS]
    others = [row for row in rows if row.view == OTHER_VIEWS]
    if len(named) > most - 1:
        named.sort(key=lambda row: max(row.retained, row.largest), reverse=True)
        others += [ViewMemory(OTHER_VIEWS) + row for row in named[most - 1 :]]
        named = named[: most - 1]
    return [*named, *summed(others)]


def named_most(rows: Iterable[ViewMemory]) -> list[str]:
    """Name the views that have retained the most, with how much, for people and for an event.

    A view of which the first requests have added more than all others is named with that.
    """
    return [_named(row) for row in kept_most(rows)[:NAMED]]


def kept_most(rows: Iterable[ViewMemory]) -> list[ViewMemory]:
    """Return the views that explain why a worker is large, the most first; their first requests count as well."""
    most = sorted(summed(rows), key=lambda row: max(row.retained, row.first_use), reverse=True)
    return [row for row in most if max(row.retained, row.first_use) >= LEAST]


def _named(row: ViewMemory) -> str:
    if row.first_use > row.retained:
        return f"{row.view} {in_megabytes(row.first_use, sign='+')} in its first requests"
    return f"{row.view} {in_megabytes(row.retained, sign='+')}"


def views_of_seat(board: Board, seat: int) -> list[ViewMemory]:
    """Return the table of a worker."""
    return list(_read(board, board.layout.views(seat)))


def views_of_slot(board: Board, slot: int) -> list[ViewMemory]:
    """Return the tables of a slot's workers of the newest generation: of those that are gone, and of the present."""
    rows: list[ViewMemory] = []
    newest = 0
    for generation, table in _tables(board, slot):
        if generation > newest:
            rows, newest = [], generation
        if generation == newest:
            rows += table
    return summed(rows)


def _tables(board: Board, slot: int) -> Iterator[tuple[int, list[ViewMemory]]]:
    at = board.layout.views_before(slot)
    yield board.words[at], list(_read(board, at))
    for seat, of in workers_in_seats(board):
        if of == slot:
            yield board.words[board.layout.seat(seat) + Seat.GENERATION], views_of_seat(board, seat)


def memory_of_servers(boards: Iterable[Board], *, slot: int | None = None) -> dict[str, Any]:
    """Return the views by what they have retained, as plain values: what ``workerguard memory --json`` prints.

    ``slot``: only the workers of this one. ``not_alone`` counts the requests of the present workers that were to be
    measured and were not, because another one was in hand with them.
    """
    rows: list[ViewMemory] = []
    not_alone = 0
    for board in boards:
        for number in range(1, board.layout.slots + 1):
            if slot in (None, number):
                rows += views_of_slot(board, number)
        for seat, of in workers_in_seats(board):
            if slot in (None, of):
                not_alone += board.words[board.layout.seat(seat) + Seat.NOT_ALONE]
    views = [row.as_dict() for row in summed(rows)]
    return {"version": MEMORY_VERSION, "at": time.time(), "views": views, "not_alone": not_alone}


def fold_views(board: Board, slot: int, seat: int, generation: int) -> None:
    """Add the table of a worker that is gone to that of its slot, and empty it. Only the arbiter may."""
    at = board.layout.views_before(slot)
    rows = views_of_seat(board, seat)
    if not rows:
        return
    board.clear_views(board.layout.views(seat))
    if generation < board.words[at]:
        return
    before = list(_read(board, at)) if generation == board.words[at] else []
    board.clear_views(at)
    board.words[at] = generation
    for index, row in enumerate(bounded([*before, *rows])):
        values = (row.measured, row.grew, row.shrank, row.first_uses, row.first_use, row.largest)
        first = at + TABLE_WORDS + index * ViewRow.WORDS
        board.words[first : first + len(values)] = memoryview(array("Q", values))
        board.write_bytes(first + ViewRow.NAME, encoded(row.view))


def encoded(view: str) -> bytes:
    """Return the name of a view as a row holds it: its end, if it is too long."""
    return view.encode(errors="replace")[-NAME_BYTES:].ljust(NAME_BYTES, b"\0")


def _read(board: Board, table: int) -> Iterator[ViewMemory]:
    """Yield the rows of a table. It may be damaged, or written meanwhile: whatever is in it, the values are valid."""
    for index in range(VIEWS):
        at = table + TABLE_WORDS + index * ViewRow.WORDS
        name = text_at(board, at + ViewRow.NAME, ViewRow.WORDS - ViewRow.NAME)
        if not name:
            return
        values = board.words[at : at + ViewRow.NAME].tolist()
        yield ViewMemory(name, *values)
