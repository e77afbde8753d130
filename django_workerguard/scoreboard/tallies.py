"""How often what has happened since the arbiter's start. The arbiter writes, anyone reads.

The journal forgets what is older than 10,000 events; these never go back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_workerguard.policy.reason import KILLS, RECYCLES
from django_workerguard.scoreboard.board import Board

OTHER = "other"
LARGEST = 1 << 64  # of a count
# upper bounds in seconds; what takes longer is in the last, unbounded one
LOAD_BUCKETS = ("0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "120.0", "+Inf")
TALLIES: Mapping[str, tuple[str, ...]] = {
    "load_failures": ("exception", "transient", "memory", "out-of-memory", "timeout", "died"),
    "exits": (
        "asked",
        "load-failed",
        "unasked",
        "exit-code",
        "signal",
        "sigkill",
        "out-of-memory",
        *KILLS,
        OTHER,
    ),
    "recycles": (*RECYCLES, OTHER),
    "loads": LOAD_BUCKETS,
}
LOAD_SECONDS = "load_seconds"  # the sum of them all


class Tallies:
    """The arbiter's own counts, and their copy on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._counts: dict[str, Any] = {name: dict.fromkeys(labels, 0) for name, labels in TALLIES.items()}
        self._counts[LOAD_SECONDS] = 0.0
        board.write_tallies(self._counts)

    def count(self, name: str, label: str) -> None:
        """Count one more; a label that the tally does not know is its ``other``."""
        counts = self._counts[name]
        counts[label if label in counts else OTHER] += 1
        self._board.write_tallies(self._counts)

    def count_load(self, seconds: float) -> None:
        """Count a load that succeeded."""
        self._counts[LOAD_SECONDS] = round(self._counts[LOAD_SECONDS] + seconds, 6)
        self.count("loads", next(bound for bound in LOAD_BUCKETS if seconds <= float(bound)))


def read_tallies(board: Board) -> dict[str, Any]:
    """Return every tally by its labels, nothing but numbers whatever the board holds."""
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
    """Return a number that can be a count; a float of a large one overflows."""
    return value if isinstance(value, int | float) and 0 <= value <= LARGEST else 0
