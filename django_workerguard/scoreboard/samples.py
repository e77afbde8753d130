"""The samples of the last hour: the arbiter takes one of every slot every ten seconds. Runs in readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import SAMPLE_WORDS, SAMPLES, Sample


@dataclass(frozen=True)
class Totals:
    """Sums over all slots, oldest first. ``at`` is Unix time in seconds; the counters count from the server's start."""

    at: Sequence[int]
    requests: Sequence[int]
    errors_5xx: Sequence[int]


def read_totals(board: Board) -> Totals:
    """Read the samples of all slots; a slot that did not exist at the time of a sample counts 0."""
    taken = board.words[Header.SAMPLES]

    def column(slot: int, field: Sample) -> list[int]:
        start = board.layout.sample(slot, 0) + field
        ring: list[int] = board.words[
            start : start + (SAMPLES - 1) * SAMPLE_WORDS + 1 : SAMPLE_WORDS
        ].tolist()
        return ring

    at = column(1, Sample.AT)
    requests: list[list[int]] = [[0] * SAMPLES]
    errors: list[list[int]] = [[0] * SAMPLES]
    for slot in range(1, board.layout.slots + 1):
        when = at if slot == 1 else column(slot, Sample.AT)
        if slot > 1 and not any(when):
            continue
        for columns, field in ((requests, Sample.REQUESTS), (errors, Sample.ERRORS_5XX)):
            values = column(slot, field)
            if when != at:  # the slot has no value for some samples: the values there are an hour old
                values = [
                    value if abs(t - a) <= 1 else 0 for value, t, a in zip(values, when, at, strict=True)
                ]
            columns.append(values)
    first = taken % SAMPLES if taken > SAMPLES else 0
    count = min(taken, SAMPLES)
    return Totals(*((ring[first:] + ring[:first])[:count] for ring in (at, _sums(requests), _sums(errors))))


def read_recent(board: Board, slot: int, *, samples: int) -> tuple[int, int]:
    """Return the requests and the 5xx of a slot since ``samples`` samples ago; (0, 0) if there is no sample."""
    taken = board.words[Header.SAMPLES]
    if not taken > 0 or slot > board.layout.slots:
        return 0, 0
    newest = (taken - 1) % SAMPLES
    words = board.words
    last, first = (
        board.layout.sample(slot, (newest - back) % SAMPLES)
        for back in (0, min(samples, taken - 1, SAMPLES - 1))
    )
    return (
        max(0, words[last + Sample.REQUESTS] - words[first + Sample.REQUESTS]),
        max(0, words[last + Sample.ERRORS_5XX] - words[first + Sample.ERRORS_5XX]),
    )


def _sums(columns: list[list[int]]) -> list[int]:
    return list(map(sum, zip(*columns, strict=True)))
