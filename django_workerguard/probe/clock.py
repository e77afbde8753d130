"""Clocks. Runs in the arbiter; readers use `monotonic_ns`."""

from __future__ import annotations

import time
from collections.abc import Callable

# the clock that every stamp on the scoreboard is in: CLOCK_MONOTONIC, nanoseconds
monotonic_ns = time.monotonic_ns


class AwakeClock:
    """Count only the time during which its owner was awake, in seconds.

    Every deadline of the policy is on this clock. A jump (the process was stopped with
    SIGSTOP, its cgroup frozen, the machine suspended) counts as one ``longest_step``, so
    that waking up late never makes anybody else look late.
    """

    def __init__(self, *, longest_step: float = 2.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._longest_step = longest_step
        self._last = monotonic()
        self._awake = 0.0
        self.skipped = 0.0

    def __call__(self) -> float:
        """Advance to now and return the seconds that the owner has been awake."""
        now = self._monotonic()
        step = max(0.0, now - self._last)
        self._last = now
        self.skipped = max(0.0, step - self._longest_step)
        self._awake += step - self.skipped
        return self._awake
