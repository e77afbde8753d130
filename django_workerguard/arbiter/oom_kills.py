"""OOM kills: which SIGKILLs the kernel sent because memory ran out. Runs in the arbiter.

The kernel counts a kill when it sends the signal. The process ends later, when its memory has been given back: a large
one takes some tenths of a second, and one that waits for the disk takes as long as the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

KEPT = 2.0  # seconds after which a counted kill is another process's, unless a child is still ending


class OOMKills:
    """The kernel's kills that no ended process has accounted for yet."""

    def __init__(self, count: Callable[[], int | None], *, is_dying: Callable[[], bool]) -> None:
        """``count`` returns how often the kernel has killed so far; None if that cannot be read now.

        ``is_dying`` returns whether a child is ending.
        """
        self._count = count
        self._is_dying = is_dying
        self._seen = count()
        self._unclaimed: deque[float] = deque()  # when each was first seen

    def update(self, now: float) -> None:
        """Add the kills that the kernel has counted since, and drop old ones: their victims were other processes."""
        count = self._count()
        if count is not None:
            if self._seen is not None:
                self._unclaimed.extend([now] * max(0, count - self._seen))
            self._seen = count
        while self._unclaimed and now - self._unclaimed[0] > KEPT and not self._is_dying():
            self._unclaimed.popleft()

    def claim(self, now: float) -> bool:
        """Say whether a process that SIGKILL has ended was one of the kernel's kills; each counts for one process."""
        self.update(now)
        if not self._unclaimed:
            return False
        self._unclaimed.popleft()
        return True
