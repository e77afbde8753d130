"""The requests in hand, as the registers of the seats hold them. Runs in readers and in the arbiter.

A register may be damaged, or written while it is read: whatever is in it, a reader gets valid values.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from django_workerguard.config.text import REPLACEMENT
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.layout import ENTRIES, Entry, Seat, SeatKind
from django_workerguard.values import value_class

REQUESTS_VERSION = 1
NEVER = 1 << 64  # nanoseconds
NO_LIMIT = NEVER - 1  # in an entry
ENTRY_WORDS = int(Entry.WORDS)


@value_class
class InHand:
    """One request that a worker serves.

    ``started`` and ``limit`` are in nanoseconds of the monotonic clock; ``limit`` is 0 if the request has none of its
    own, and NO_LIMIT if it may run for ever. ``task`` is the identity of the thread, greenlet or task. ``view`` is ""
    until Django has chosen it.
    """

    seat: int
    started: int
    limit: int
    task: int
    method: str
    path: str
    view: str

    def age(self, now: int) -> float:
        """Return the seconds since its start, at a time in nanoseconds."""
        return max(0, now - self.started) / 1e9

    @property
    def target(self) -> str:
        return f"{self.method} {self.path}"

    def as_dict(self, now: int) -> dict[str, Any]:
        """Return it as plain values, with its age in seconds."""
        return {
            "age": round(self.age(now), 3),
            "method": self.method,
            "path": self.path,
            "view": self.view,
        }


def requests_in_hand(board: Board, seat: int) -> list[InHand]:
    """Return the requests in the register of a seat, the oldest first."""
    entries = (_read_entry(board, seat, *entry) for entry in _starts(board, seat))
    return _oldest_first(request for request in entries if request)


def workers_in_seats(board: Board) -> Iterator[tuple[int, int]]:
    """Yield the seat and the slot of each worker, also of one that is leaving."""
    for seat in range(board.layout.seats):
        base = board.layout.seat(seat)
        if board.words[base + Seat.PID] and board.words[base + Seat.KIND] == SeatKind.WORKER:
            yield seat, board.words[base + Seat.SLOT]


def oldest_request(board: Board, seat: int, now: int) -> dict[str, Any] | None:
    """Return the oldest request in a seat as plain values; None if there is none."""
    return next((request.as_dict(now) for request in requests_in_hand(board, seat)), None)


def requests_of_servers(boards: Iterable[Board]) -> dict[str, Any]:
    """Return all requests in hand, the oldest first, as plain values: what ``workerguard requests --json`` prints.

    ``not_listed`` counts those for which a register had no room.
    """
    now = monotonic_ns()
    listed: list[dict[str, Any]] = []
    in_flight = 0
    for board in boards:
        for seat, slot in workers_in_seats(board):
            base = board.layout.seat(seat)
            in_flight += board.words[base + Seat.IN_FLIGHT]
            pid = board.words[base + Seat.PID]
            listed.extend(
                {"slot": slot, "pid": pid, **request.as_dict(now), "task": request.task}
                for request in requests_in_hand(board, seat)
            )
    return {
        "version": REQUESTS_VERSION,
        "at": time.time(),
        "requests": sorted(listed, key=lambda request: -request["age"]),
        "not_listed": max(0, in_flight - len(listed)),
    }


def overdue(board: Board, seat: int, seconds: float, now: int) -> tuple[str, ...]:
    """Return method and path of each request in a seat that has run too long, the oldest first.

    ``seconds``: the limit of a request that has none of its own; 0: no limit. ``now``: monotonic ns.
    """
    late = late_entries(board, seat, seconds, now)
    requests = [request for entry in late if (request := _read_entry(board, seat, *entry))]
    return tuple(request.target for request in _oldest_first(requests))


def late_entries(board: Board, seat: int, seconds: float, now: int) -> list[tuple[int, int]]:
    """Return number and start of each entry whose request has run too long: see `overdue`."""
    first, general = board.layout.entry(seat, 0) + Entry.LIMIT, int(seconds * 1e9) or NEVER
    return [
        (number, started)
        for number, started in _starts(board, seat)
        if (board.words[first + number * ENTRY_WORDS] or started + general) <= now
    ]


def older_than(board: Board, seat: int, seconds: float, now: int) -> int:
    """Return how many requests in a seat have run for so long; 0 if ``seconds`` is 0. ``now``: monotonic ns."""
    earliest = now - int(seconds * 1e9)
    return sum(started <= earliest for _, started in _starts(board, seat)) if seconds else 0


def ages_ns(board: Board, seat: int, now: int) -> int:
    """Return the sum of the ages of the requests in a seat, in nanoseconds."""
    return sum(max(0, now - started) for _, started in _starts(board, seat))


def _starts(board: Board, seat: int) -> list[tuple[int, int]]:
    """Return number and start of each entry in use."""
    first = board.layout.started(seat)
    starts = board.words[first : first + ENTRIES].tolist()
    return [(number, started) for number, started in enumerate(starts) if started]


def _oldest_first(requests: Iterable[InHand]) -> list[InHand]:
    return sorted(requests, key=lambda request: request.started)


def _read_entry(board: Board, seat: int, number: int, started: int) -> InHand | None:
    """Read an entry; None if its request has ended meanwhile."""
    entry = board.layout.entry(seat, number)
    task, limit = board.words[entry + Entry.TASK], board.words[entry + Entry.LIMIT]
    method, _, path = text_at(board, entry + Entry.TARGET, Entry.VIEW - Entry.TARGET).partition(" ")
    view = text_at(board, entry + Entry.VIEW, Entry.WORDS - Entry.VIEW)
    if board.words[board.layout.started(seat) + number] != started:
        return None
    return InHand(seat, started, limit, task, method, path, view)


def text_at(board: Board, offset: int, words: int) -> str:
    """Read a text of at most ``words`` words. Characters that could control a terminal are replaced."""
    text = board.read_bytes(offset, words * WORD).partition(b"\0")[0].decode(errors="replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else REPLACEMENT for c in text)
