"""Counts of failures, exits, recycles and loads since the arbiter's start. The arbiter writes them; any process reads them.

The journal keeps only 10,000 events; these counts never decrease.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_workerguard.policy.reason import KILLS, RECYCLES
from django_workerguard.scoreboard.board import Board

OTHER = "other"
MAX_COUNT = 1 << 64
# upper bounds in seconds; the last bucket is unbounded
LOAD_BUCKETS = ("0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "120.0", "+Inf")
EXITS = ("asked", "unasked", "exit-code", "signal", "sigkill", "out-of-memory", *KILLS, OTHER)
TALLIES: Mapping[str, tuple[str, ...]] = {
    "load_failures": ("exception", "transient", "memory", "out-of-memory", "timeout", "died"),
    "exits": ("load-failed", *EXITS),
    "requests_lost": EXITS,
    "recycles": (*RECYCLES, OTHER),
    "loads": LOAD_BUCKETS,
}
LOAD_SECONDS = "load_seconds"  # the sum of the durations of all loads


class Tallies:
    """The arbiter's own counts, and their copy on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._counts = read_tallies(board)  # all 0 on a new board; an adopted one goes on
        board.write_tallies(self._counts)

    def count(self, name: str, label: str) -> None:
        """Add one to a label of a tally; an unknown label counts as ``other``."""
        counts = self._counts[name]
        counts[label if label in counts else OTHER] += 1
        self._board.write_tallies(self._counts)

    def count_load(self, seconds: float) -> None:
        """Count a successful load and its duration."""
        self._counts[LOAD_SECONDS] = round(self._counts[LOAD_SECONDS] + seconds, 6)
        self.count("loads", next(bound for bound in LOAD_BUCKETS if seconds <= float(bound)))


def read_tallies(board: Board) -> dict[str, Any]:
    """Return every tally by its labels; all values are numbers, even if the board is damaged."""
    written = board.read_tallies()
    tallies: dict[str, Any] = {
        name: {label: _number(_label_count(written.get(name), label)) for label in labels}
        for name, labels in TALLIES.items()
    }
    tallies[LOAD_SECONDS] = _number(written.get(LOAD_SECONDS))
    return tallies


def _label_count(counts: Any, label: str) -> Any:
    return counts.get(label) if isinstance(counts, dict) else None


def _number(value: Any) -> int | float:
    """Return the value if it is a valid count, otherwise 0: converting a larger one to float would overflow."""
    return value if isinstance(value, int | float) and 0 <= value <= MAX_COUNT else 0
