"""How long requests took, by class of status, and waited: histograms of each slot. Runs in readers and in the arbiter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
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

NANOSECONDS = 1e9


def bounds_of(board: Board) -> list[float]:
    """Return the upper bounds of the buckets in seconds; the last bucket has none."""
    at = board.layout.bounds
    return [bound / NANOSECONDS for bound in board.words[at : at + BUCKETS - 1].tolist() if bound]


def write_bounds(board: Board, bounds: Iterable[float]) -> None:
    """Write the upper bounds of the buckets, in seconds, before any worker counts."""
    for index, bound in enumerate(bounds):
        board.words[board.layout.bounds + index] = int(bound * NANOSECONDS)


def histograms(board: Board) -> dict[int, list[int]]:
    """Return the words of the histograms of every slot, over all the workers that it has had."""
    words, layout = board.words, board.layout
    found = {}
    for slot in range(1, layout.slots + 1):
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


@dataclass(frozen=True)
class Totals:
    """Sums over all slots and classes of status since the server's start.

    ``durations`` and ``waits`` are the counts of each bucket; ``nanoseconds`` is the sum of the durations; ``shed`` counts
    the requests that had waited too long.
    """

    durations: list[int]
    nanoseconds: int
    waits: list[int]
    shed: int

    @classmethod
    def none(cls) -> Totals:
        """Return the totals of a server that has had no request."""
        return cls([0] * BUCKETS, 0, [0] * BUCKETS, 0)


def totals(board: Board) -> Totals:
    """Return the sums over all slots."""
    slots = histograms(board).values()
    words = [sum(column) for column in zip(*slots, strict=True)] or [0] * HISTOGRAMS_WORDS
    classes = [words[at : at + HISTOGRAM_WORDS] for at in range(0, DURATIONS_WORDS, HISTOGRAM_WORDS)]
    *durations, nanoseconds = (sum(column) for column in zip(*classes, strict=True))
    shed = sum(board.words[board.layout.slot(slot) + Slot.SHED] for slot in range(1, board.layout.slots + 1))
    shed += sum(board.words[board.layout.seat(seat) + Seat.SHED] for seat, _ in workers_in_seats(board))
    return Totals(durations, nanoseconds, words[DURATIONS_WORDS:][:BUCKETS], shed)


def latency(board: Board) -> dict[str, float] | None:
    """Return the quantiles of the last minute's durations, in seconds; None if there was no request."""
    return _quantiles(board, Header.P50, Header.P95, Header.P99)


def queue_time(board: Board) -> dict[str, float] | None:
    """Return the quantiles of the last minute's times in the queue, in seconds; None if none is known."""
    return _quantiles(board, Header.QUEUE_P50, Header.QUEUE_P95, Header.QUEUE_P99)


def _quantiles(board: Board, *places: int) -> dict[str, float] | None:
    values = [board.words[place] for place in places]
    if not values[-1]:
        return None
    return {name: value / 1e6 for name, value in zip(("p50", "p95", "p99"), values, strict=True)}
