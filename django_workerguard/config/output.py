"""Output and errors of a command. Runs in the commands, and in the arbiter at its start and in place of serving."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from django_workerguard.config.text import plain
from django_workerguard.errors import CannotWriteError, ExitCode, WorkerguardError


def show(text: object, *, end: str = "\n", flush: bool = False) -> None:
    """Print a text, and escape the characters that the output cannot show. Raises CannotWriteError."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(f"{text}{end}".encode(encoding, "backslashreplace").decode(encoding))
        if flush:
            sys.stdout.flush()
    except OSError as error:
        raise cannot_write(error) from None


def finish() -> None:
    """Write out what has been printed. Raises CannotWriteError."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise cannot_write(error) from None


class Output:
    """Output of a command whose exit code is its answer: the command goes on if its output cannot be written."""

    def __init__(self) -> None:
        self._error: CannotWriteError | None = None

    def show(self, text: object, *, end: str = "\n", flush: bool = False) -> None:
        """Print a text, as the function `show` does."""
        try:
            show(text, end=end, flush=flush)
        except CannotWriteError as error:
            self._error = error

    def finish(self, code: int) -> int:
        """Write out what has been printed, and return the exit code. Raises CannotWriteError if nothing else has failed."""
        try:
            finish()
        except CannotWriteError as error:
            self._error = error
        if code == ExitCode.OK and self._error is not None:
            raise self._error
        return code


def show_error(error: WorkerguardError) -> int:
    """Print an error as one line, if it has a text, and return its exit code."""
    with contextlib.suppress(CannotWriteError):
        finish()
    if str(error):
        say(f"Error: {error}")
    return error.exit_code


def say(text: str, *, end: str = "\n") -> None:
    """Print a text to the standard error. If it cannot be written, nothing is written there any more."""
    try:
        sys.stderr.write(f"{plain(text)}{end}")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def cannot_write(error: OSError) -> CannotWriteError:
    """Return the error for one of the output, of which nothing is written any more."""
    _discard(sys.stdout)
    return CannotWriteError(error)


def _discard(stream: TextIO) -> None:
    """Have the rest of a stream written to /dev/null: Python would fail at the end of the process otherwise."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
