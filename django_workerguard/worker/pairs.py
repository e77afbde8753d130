"""The pairs of functions that stop something before the fork and start it in each worker. Runs in the mold and the worker.

This state is global because it describes the process: the site registers its pairs while it is imported, and each worker
inherits them by the fork.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from django_workerguard.values import value_class


class Phase(Enum):
    """Where a process is between its load and its requests."""

    LOADING = auto()  # every process, until it is settled; a worker without a mold stays here
    SETTLED = auto()  # the mold, from the first stop on
    RESUMED = auto()  # a worker that a mold has made


@value_class
class Pair:
    """Two functions that belong together, and their name for people."""

    stop: Callable[[], Any]
    start: Callable[[], Any]
    name: str


class _Process:
    phase = Phase.LOADING
    pairs: tuple[Pair, ...] = ()  # in order of registration
    stopped: tuple[Pair, ...] = ()  # in order of their stops


def phase() -> Phase:
    """Return where this process is."""
    return _Process.phase


def set_phase(new: Phase) -> None:
    """Record where this process is."""
    _Process.phase = new


def register_pair(pair: Pair) -> None:
    """Register a pair of the site's."""
    _Process.pairs = (*_Process.pairs, pair)


def registered_pairs() -> tuple[Pair, ...]:
    """Return the site's pairs in order of registration."""
    return _Process.pairs


def mark_stopped(pair: Pair) -> None:
    """Record that a pair's `stop` has returned, so that its `start` is called in the worker."""
    _Process.stopped = (*_Process.stopped, pair)


def take_stopped() -> tuple[Pair, ...]:
    """Return the stopped pairs in reverse order of their stops, and forget them."""
    stopped, _Process.stopped = _Process.stopped, ()
    return stopped[::-1]
