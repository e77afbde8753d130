"""gunicorn's control socket beside forks. Runs in the arbiter.

gunicorn stops the socket's thread before each fork, which ends the connections of clients. asyncio of Python 3.11 logs the
end of each with a traceback, though nothing has failed.
"""

from __future__ import annotations

import logging
import math
import os

ANSWERING = 0.5  # seconds that gunicorn's control socket gets to answer its client


class EndedConnections(logging.Filter):
    """Leaves out what asyncio logs of a cancelled task, in the arbiter; its children log what they like."""

    def __init__(self) -> None:
        super().__init__()
        self._arbiter = os.getpid()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        cancelled = type(error).__name__ == "CancelledError"  # asyncio itself is not imported for it
        return not cancelled or os.getpid() != self._arbiter


def be_quiet_about_ended_connections() -> None:
    logging.getLogger("asyncio").addFilter(EndedConnections())


class AskedTarget:
    """The target that gunicorn's control socket has set, from a thread of its own."""

    def __init__(self) -> None:
        self._target: int | None = None
        self._seen = math.inf  # when it was first looked at

    def ask(self, target: int) -> None:
        """Take a target from the socket's thread."""
        self._target = target

    def due(self, now: float) -> int | None:
        """Return a target once its client has had time to get its answer, because a fork ends the connection; else None."""
        if self._target is None:
            return None
        self._seen = min(now, self._seen)
        if now - self._seen < ANSWERING:
            return None
        target, self._target, self._seen = self._target, None, math.inf
        return target
