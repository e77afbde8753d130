"""gunicorn's control socket beside forks. Runs in the arbiter.

gunicorn stops the socket's thread before each fork, which ends the connections of clients. asyncio of Python 3.11 logs the
end of each with a traceback, though nothing has failed.
"""

from __future__ import annotations

import logging
import os


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
