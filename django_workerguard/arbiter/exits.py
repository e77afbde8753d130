"""Exit statuses of processes, decoded. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from django_workerguard.errors import ExitCode
from django_workerguard.values import value_class

TERMINATION_LOG = Path("/dev/termination-log")


@value_class
class Exit:
    """A wait status, decoded."""

    code: int | None
    signal: int | None

    @classmethod
    def of(cls, status: int) -> Exit:
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status))
        return cls(os.waitstatus_to_exitcode(status), None)

    @classmethod
    def of_process(cls, exit_code: int | None) -> Exit:
        """Decode the exit code of a `multiprocessing` process: negative for a signal; None if it is not known."""
        if exit_code is None or exit_code < 0:
            return cls(None, -(exit_code or -1))
        return cls(exit_code, None)

    @property
    def clean(self) -> bool:
        return self.code == 0

    @property
    def transient(self) -> bool:
        """Say whether the way it ended may pass by itself: SIGKILL is how a memory shortage ends a process."""
        return self.signal == signal.SIGKILL or self.clean

    @property
    def kind(self) -> str:
        """Return the signal's name, or ``exit``."""
        if self.signal is None:
            return "exit"
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"

    def __str__(self) -> str:
        return f"exit code {self.code}" if self.signal is None else f"killed by {self.kind}"


def leave_word(reason: str, *, path: Path = TERMINATION_LOG) -> None:
    """Write why the server ended to Kubernetes' termination log, if there is one."""
    if path.exists():
        with contextlib.suppress(OSError):
            path.write_text(reason + "\n", encoding="utf-8", errors="replace")


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that an exception stands for."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else (0 if error.code is None else 1)
    return ExitCode.UNEXPECTED
