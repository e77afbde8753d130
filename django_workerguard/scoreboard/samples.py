"""The hour of samples: the arbiter takes one of every slot each ten seconds, anyone reads. Runs in readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import SAMPLE_WORDS, SAMPLES, Sample


@dataclass(frozen=True)
class Totals:
    """Sums over all slots, the oldest first. ``at`` is Unix time in seconds; counters are counted since the start."""

    at: Sequence[int]
    requests: Sequence[int]
    errors_5xx: Sequence[int]
    in_flight: Sequence[int]
    rss_bytes: Sequence[int]


def read_totals(board: Board) -> Totals:
    """Read the samples of all slots; a slot that was not there at one of them counts 0 there."""
    taken, slots = board.words[Header.SAMPLES], board.layout.slots
    first = taken % SAMPLES if taken > SAMPLES else 0
    shown = min(taken, SAMPLES)

    def column(slot: int, field: Sample) -> list[int]:
        start = board.layout.sample(slot, 0) + field
        ring = board.words[start : start + (SAMPLES - 1) * SAMPLE_WORDS + 1 : SAMPLE_WORDS].tolist()
        return (ring[first:] + ring[:first])[:shown]

    at = column(1, Sample.AT)
    there = [slot for slot in range(1, slots + 1) if any(column(slot, Sample.AT))] if slots > 1 else [1]
    present = {slot: column(slot, Sample.AT) for slot in there}

    def total(field: Sample) -> list[int]:
        sums = [0] * shown
        for slot in there:
            when = present[slot]
            values = column(slot, field)
            if when != at:  # it is not of every sample: what lies there is an hour old
                values = [
                    value if abs(t - a) <= 1 else 0 for value, t, a in zip(values, when, at, strict=True)
                ]
            sums = [left + right for left, right in zip(sums, values, strict=True)]
        return sums

    return Totals(
        at, *(total(field) for field in (Sample.REQUESTS, Sample.ERRORS_5XX, Sample.IN_FLIGHT, Sample.RSS))
    )
