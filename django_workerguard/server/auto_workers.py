"""workers=auto: follow the CPUs and the memory that the server may use. Runs in the arbiter."""

from __future__ import annotations

from collections.abc import Callable

from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy.sizing import choose
from django_workerguard.probe import cgroup

LOOK_EVERY = 5.0  # seconds
ASKED_BY = "workers=auto"


class AutoWorkers:
    """Chooses the number of workers once for each generation, and again when a limit has changed."""

    def __init__(self, tracker: Tracker, *, scale: Callable[..., str | None]) -> None:
        self._tracker = tracker
        self._scale = scale
        self._looked: float | None = None
        # generation, CPUs and memory limits of the last choice
        self._basis: tuple[int, int, tuple[int, ...]] | None = None

    def look(self, now: float, log: Callable[..., object], *, event_loop: bool) -> None:
        """Change the target if there is a reason to. ``log`` takes a line for people."""
        tracker = self._tracker
        fleet, layout = tracker.fleet, tracker.board.layout
        measured = self._basis is None or self._basis[0] != fleet.generation
        if fleet.stop is not None or (
            not measured and self._looked is not None and now - self._looked < LOOK_EVERY
        ):
            return
        self._looked = now
        basis = (fleet.generation, cgroup.cpus(), tracker.memory_limits)
        if basis == self._basis:
            return
        most = min(layout.slots, (layout.seats - tracker.policy.surge) // 2)
        choice = choose(tracker.policy, fleet, basis[1], event_loop=event_loop, most=most)
        if choice is None:
            return
        self._basis = basis
        log("workers=auto: %d workers: %s", choice.workers, choice.reasoning)
        if choice.workers != fleet.target:
            self._scale(choice.workers, ASKED_BY, by_hand=False)
