"""The samples of the last hour: the arbiter takes one of every slot every ten seconds. Runs in readers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import SAMPLE_WORDS, SAMPLES, Sample
from django_workerguard.values import value_class


@value_class
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


def read_recent(board: Board, slot: int, *, samples: int) -> tuple[int, int, int]:
    """Return the requests and the 5xx of a slot since ``samples`` samples ago, and how many seconds ago that was.

    (0, 0, 0) if there are not yet two samples. The newest sample is up to ten seconds old.
    """
    taken = board.words[Header.SAMPLES]
    if not taken > 1 or slot > board.layout.slots:
        return 0, 0, 0
    newest = (taken - 1) % SAMPLES
    words = board.words
    back = min(samples, taken - 1, SAMPLES - 1)
    last, first = (board.layout.sample(slot, index % SAMPLES) for index in (newest, newest - back))
    return (
        max(0, words[last + Sample.REQUESTS] - words[first + Sample.REQUESTS]),
        max(0, words[last + Sample.ERRORS_5XX] - words[first + Sample.ERRORS_5XX]),
        _seconds(board, (newest - back) % SAMPLES, newest),
    )


def _seconds(board: Board, first: int, last: int) -> int:
    """Return the seconds between two samples, by those of slot 1, which has one each time."""
    words, layout = board.words, board.layout
    return max(0, words[layout.sample(1, last) + Sample.AT] - words[layout.sample(1, first) + Sample.AT])


@value_class
class Series:
    """The last hour of a slot in minutes, oldest first; None: the slot had no sample then.

    ``requests`` and ``errors_5xx`` are numbers within the minute, ``rss`` is in bytes at its end.
    """

    requests: Sequence[int | None]
    errors_5xx: Sequence[int | None]
    rss: Sequence[int | None]


PER_MINUTE = 6


def read_series(board: Board, slot: int) -> Series:
    """Read the samples of a slot, one value a minute."""
    taken = board.words[Header.SAMPLES]
    if not 0 < taken < 1 << 63 or slot > board.layout.slots:
        return Series((), (), ())
    count = min(taken, SAMPLES)
    # the newest sample and the ones that are whole minutes older
    indices = [
        (taken - 1 - back) % SAMPLES
        for back in range((count - 1) // PER_MINUTE * PER_MINUTE, -1, -PER_MINUTE)
    ]
    words, layout = board.words, board.layout
    # a slot that did not exist at a time has there what is an hour old
    when = [words[layout.sample(1, index) + Sample.AT] for index in indices]
    starts = [layout.sample(slot, index) for index in indices]
    known = [abs(words[start + Sample.AT] - at) <= 1 for start, at in zip(starts, when, strict=True)]

    def column(field: Sample) -> list[int | None]:
        return [words[start + field] if valid else None for start, valid in zip(starts, known, strict=True)]

    return Series(
        _differences(column(Sample.REQUESTS)), _differences(column(Sample.ERRORS_5XX)), column(Sample.RSS)
    )


def _differences(totals: Sequence[int | None]) -> list[int | None]:
    """Return by how much each total is above the one before; the first has none before it."""
    return [
        max(0, after - before) if before is not None and after is not None else None
        for before, after in pairwise(totals)
    ]


def _sums(columns: list[list[int]]) -> list[int]:
    return list(map(sum, zip(*columns, strict=True)))
