"""Clocks. Runs in the arbiter; readers use `monotonic_ns`."""

from __future__ import annotations

import time
from collections.abc import Callable

# the clock of every timestamp on the scoreboard: CLOCK_MONOTONIC, nanoseconds
monotonic_ns = time.monotonic_ns


class AwakeClock:
    """A clock, in seconds, that counts only the time during which this process was awake.

    Every deadline of the policy uses this clock. A jump (the process was stopped by SIGSTOP, its cgroup frozen, the
    machine suspended) counts as one ``longest_step``, so that the arbiter does not blame a worker because the arbiter
    itself was late.
    """

    def __init__(self, *, longest_step: float = 2.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._longest_step = longest_step
        self._last = monotonic()
        self._awake = 0.0
        self.skipped = 0.0

    def __call__(self) -> float:
        """Advance to now and return the seconds for which this process has been awake."""
        now = self._monotonic()
        step = max(0.0, now - self._last)
        self._last = now
        self.skipped = max(0.0, step - self._longest_step)
        self._awake += step - self.skipped
        return self._awake
