"""How long requests took, by class of status, and waited: histograms of each slot. Runs in readers and in the arbiter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.in_hand import workers_in_seats
from django_workerguard.scoreboard.layout import (
    BUCKETS,
    DURATIONS_WORDS,
    HISTOGRAM_WORDS,
    HISTOGRAMS_WORDS,
    STATUS_CLASSES,
    Seat,
    Slot,
)
from django_workerguard.values import value_class

NANOSECONDS = 1e9


def bounds_of(board: Board) -> list[float]:
    """Return the upper bounds of the buckets in seconds; the last bucket has none."""
    at = board.layout.bounds
    return [bound / NANOSECONDS for bound in board.words[at : at + BUCKETS - 1].tolist() if bound]


def write_bounds(board: Board, bounds: Iterable[float]) -> None:
    """Write the upper bounds of the buckets, in seconds, before any worker counts."""
    for index, bound in enumerate(bounds):
        board.words[board.layout.bounds + index] = int(bound * NANOSECONDS)


def histograms(board: Board, slots: int) -> dict[int, list[int]]:
    """Return the words of the histograms of the slots up to a number, over all the workers that each has had."""
    words, layout = board.words, board.layout
    found = {}
    for slot in range(1, slots + 1):
        at = layout.histograms_before(slot)
        found[slot] = words[at : at + HISTOGRAMS_WORDS].tolist()
    for seat, slot in workers_in_seats(board):
        if slot in found:
            at = layout.histograms(seat)
            counted = words[at : at + HISTOGRAMS_WORDS].tolist()
            found[slot] = [sum(pair) for pair in zip(found[slot], counted, strict=True)]
    return found


def durations_as_dict(words: list[int], buckets: int) -> dict[str, dict[str, Any]]:
    """Return the histograms of the durations in one slot, by class of status, without those that have no request.

    ``buckets``: how many are in use.
    """
    found = {}
    for index, name in enumerate(STATUS_CLASSES):
        histogram = _as_dict(words[index * HISTOGRAM_WORDS : (index + 1) * HISTOGRAM_WORDS], buckets)
        if histogram is not None:
            found[name] = histogram
    return found


def queue_as_dict(words: list[int], buckets: int) -> dict[str, Any] | None:
    """Return the histogram of the times in the queue in one slot; None if none is known."""
    return _as_dict(words[DURATIONS_WORDS:], buckets)


def _as_dict(histogram: list[int], buckets: int) -> dict[str, Any] | None:
    """Return a histogram as plain values: ``buckets``, the counts, and ``seconds``, the sum."""
    if not any(histogram[:BUCKETS]):
        return None
    return {"buckets": histogram[:buckets], "seconds": histogram[BUCKETS] / NANOSECONDS}


def bucket_counts(words: list[int]) -> list[int]:
    """Return the counts of each bucket of the durations, over all classes of status."""
    return [sum(words[bucket:DURATIONS_WORDS:HISTOGRAM_WORDS]) for bucket in range(BUCKETS)]


@value_class
class Totals:
    """What has been counted since the server's start.

    ``durations`` are the counts of each bucket by slot; ``waits`` those of the times in the queue, over all slots.
    ``nanoseconds`` is the sum of all durations; ``shed`` counts the requests that had waited too long.
    """

    durations: dict[int, list[int]]
    nanoseconds: int
    waits: list[int]
    shed: int

    @classmethod
    def none(cls) -> Totals:
        """Return the totals of a server that has had no request."""
        return cls({}, 0, [0] * BUCKETS, 0)


def totals(board: Board, slots: int) -> Totals:
    """Return what the slots up to a number have counted."""
    found = histograms(board, slots)
    words = [sum(column) for column in zip(*found.values(), strict=True)] or [0] * HISTOGRAMS_WORDS
    nanoseconds = sum(words[BUCKETS:DURATIONS_WORDS:HISTOGRAM_WORDS])
    waits = words[DURATIONS_WORDS : DURATIONS_WORDS + BUCKETS]
    shed = sum(_shed(board, slot) for slot in found)
    return Totals({slot: bucket_counts(one) for slot, one in found.items()}, nanoseconds, waits, shed)


def _shed(board: Board, slot: int) -> int:
    """Return the requests that a slot has shed. Its own word includes the workers that are leaving."""
    words, at = board.words, board.layout.slot(slot)
    seats = (words[at + word] - 1 for word in (Slot.SEAT, Slot.SUCCESSOR))
    counts = (words[board.layout.seat(seat) + Seat.SHED] for seat in seats if 0 <= seat < board.layout.seats)
    return words[at + Slot.SHED] + sum(counts)


def quantiles(words: memoryview, at: int) -> dict[str, float] | None:
    """Return the quantiles at an offset, in seconds: p50, p95 and p99 of the last minute; None if there are none."""
    p50, p95, p99 = (microseconds / 1e6 for microseconds in words[at : at + 3].tolist())
    return {"p50": p50, "p95": p95, "p99": p99} if p99 else None
