"""A limit on the number of events in a period. Pure: time is an argument."""

from __future__ import annotations


class RateLimit:
    """Allow ``most`` events in each ``period`` of seconds, and count the events that were not allowed."""

    def __init__(self, most: int, period: float) -> None:
        self._most = most
        self._period = period
        self._since = float("-inf")
        self._passed = 0
        self.left_out = 0  # since the last that passed

    def take(self, now: float) -> bool:
        """Say whether one more may pass now."""
        if now - self._since >= self._period:
            self._since, self._passed = now, 0
        if self._passed >= self._most:
            self.left_out += 1
            return False
        self._passed += 1
        return True
