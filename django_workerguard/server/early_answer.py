"""The reading of the settings that manage.py has begun before its system checks. Runs in the arbiter, before it serves.

The process that reads is a child of this one: `serve_guarded` becomes the server by exec.
"""

from __future__ import annotations

import os
import select
from typing import Any

from django_workerguard.arbiter.final_kill import kill_and_collect
from django_workerguard.config.settings_exchange import Answer, Request, encode, read_answer


class EarlyAnswer:
    """The answer of that process, once it has ended."""

    def __init__(self, reading: dict[str, Any]) -> None:
        """``reading``: the handover's field."""
        self._pid: int = reading.get("pid", 0)
        self._fd: int = reading.get("fd", -1)
        self._request: str = reading.get("request", "")

    def take(self, request: Request, patience: float | None) -> Answer | None:
        """Wait for the answer and return it. None if it is one to another request, or not a good one.

        The settings are read again then, in the usual way, whose errors are the ones to report.
        """
        if not self._pid or self._request != encode(request) or not self._has_ended(patience):
            return None
        answer = read_answer(self._fd)
        return None if answer.error or answer.wrong else answer

    def _has_ended(self, patience: float | None) -> bool:
        try:
            process = os.pidfd_open(self._pid)
        except OSError:  # a kernel or a sandbox without it
            return False
        try:
            return bool(select.select([process], [], [], patience)[0])
        finally:
            os.close(process)

    def end(self) -> None:
        """End the process, if it has not ended, and collect it."""
        if not self._pid:
            return
        kill_and_collect([self._pid])
        os.close(self._fd)
        self._pid = 0
