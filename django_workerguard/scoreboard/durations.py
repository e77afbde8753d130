"""How long requests took: a histogram for each slot and class of status. Runs in readers and in the arbiter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_workerguard.scoreboard.board import Board
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


def bucket_counts(words: memoryview, at: int) -> list[int]:
    """Return the counts of each bucket of the histograms at an offset, over all classes of status."""
    counted = words[at : at + DURATIONS_WORDS].tolist()
    return [sum(counted[bucket::HISTOGRAM_WORDS]) for bucket in range(BUCKETS)]


def counts_by_slot(board: Board, slots: int) -> dict[int, list[int]]:
    """Return the counts of each bucket for the slots up to a number, over all the workers that each has had."""
    words, layout = board.words, board.layout
    found = {slot: bucket_counts(words, layout.durations_before(slot)) for slot in range(1, slots + 1)}
    for seat, slot in workers_in_seats(board):
        if slot in found:
            counts = bucket_counts(words, layout.durations(seat))
            found[slot] = [sum(pair) for pair in zip(found[slot], counts, strict=True)]
    return found


def latency(words: memoryview, at: int) -> dict[str, float] | None:
    """Return the quantiles at an offset, in seconds: p50, p95 and p99 of the last minute; None if there was no request."""
    p50, p95, p99 = (microseconds / 1e6 for microseconds in words[at : at + 3].tolist())
    return {"p50": p50, "p95": p95, "p99": p99} if p99 else None
