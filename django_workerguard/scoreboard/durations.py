"""How long requests took: a histogram for each slot and class of status. Runs in readers and in the arbiter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.in_hand import workers_in_seats
from django_workerguard.scoreboard.layout import (
    BUCKETS,
    DURATIONS_WORDS,
    HISTOGRAM_WORDS,
    STATUS_CLASSES,
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


def durations(board: Board) -> dict[int, list[int]]:
    """Return the words of the histograms of every slot, over all the workers that it has had."""
    words, layout = board.words, board.layout
    found = {}
    for slot in range(1, layout.slots + 1):
        at = layout.durations_before(slot)
        found[slot] = words[at : at + DURATIONS_WORDS].tolist()
    for seat, slot in workers_in_seats(board):
        if slot in found:
            at = layout.durations(seat)
            counted = words[at : at + DURATIONS_WORDS].tolist()
            found[slot] = [sum(pair) for pair in zip(found[slot], counted, strict=True)]
    return found


def as_dict(histograms: list[int], buckets: int) -> dict[str, dict[str, Any]]:
    """Return the histograms of one slot as plain values, without the classes that have no request.

    ``buckets``: how many are in use. Each entry has ``buckets``, the counts, and ``seconds``, the sum of the durations.
    """
    found = {}
    for index, name in enumerate(STATUS_CLASSES):
        one = histograms[index * HISTOGRAM_WORDS : (index + 1) * HISTOGRAM_WORDS]
        if any(one[:BUCKETS]):
            found[name] = {"buckets": one[:buckets], "seconds": one[BUCKETS] / NANOSECONDS}
    return found


def counts_of_all(board: Board) -> list[int]:
    """Return the counts of each bucket, over all slots and classes."""
    totals = [0] * BUCKETS
    for histograms in durations(board).values():
        for index in range(len(STATUS_CLASSES)):
            counts = histograms[index * HISTOGRAM_WORDS : index * HISTOGRAM_WORDS + BUCKETS]
            totals = [sum(pair) for pair in zip(totals, counts, strict=True)]
    return totals


def latency(board: Board) -> dict[str, float] | None:
    """Return the quantiles of the last minute's durations, in seconds; None if there was no request."""
    words = board.words
    if not words[Header.P99]:
        return None
    return {"p50": words[Header.P50] / 1e6, "p95": words[Header.P95] / 1e6, "p99": words[Header.P99] / 1e6}
