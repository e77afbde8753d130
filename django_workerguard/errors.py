"""Errors that are shown in one line, and the exit codes of every command. Runs anywhere."""

from __future__ import annotations

from enum import IntEnum

DEFAULT = "default"  # the place of a value that was not set


def set_in(where: str) -> str:
    """Return in words where a value was set."""
    return "the default" if where == DEFAULT else f"set in {where}"


class ExitCode(IntEnum):
    """Exit codes of the server and of the ``workerguard`` command."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INCOMPLETE = 3  # from-uwsgi has translated, but an option is lost or unknown
    LOAD_FAILED = 22  # uWSGI's code for need-app
    REFUSED = 65  # the server refused the request of a command (EX_DATAERR)
    UNAVAILABLE = 69  # a probe failed (EX_UNAVAILABLE)
    CANNOT_LISTEN = 71  # an address is in use or cannot be used now (EX_OSERR): a retry may help
    NO_SERVER = 72  # no running server was found
    CANNOT_WRITE = 74  # the output of a command cannot be written (EX_IOERR)
    TIMED_OUT = 75  # a command has waited too long (EX_TEMPFAIL)


class WorkerguardError(Exception):
    """An error that is reported in one line, without a traceback."""

    exit_code = ExitCode.UNEXPECTED


class ConfigurationError(WorkerguardError):
    """A wrong option, setting or path.

    The message has the problem, the option, the place where it was set, and a hint.
    """

    exit_code = ExitCode.USAGE

    def __init__(
        self,
        problem: str,
        *,
        option: str | None = None,
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.option = option
        self.where = where
        self.hint = hint
        super().__init__(self._line())

    def _line(self) -> str:
        line = f"{self.option}: {self.problem}" if self.option else self.problem
        if self.where:
            line += f" ({set_in(self.where)})"
        if not line.endswith("."):
            line += "."
        if self.hint:
            line += f" {self.hint}"
        return line


class NeedsRestartError(ConfigurationError):
    """A reload changes what only a restart can change."""

    def __init__(self, problem: str, *, option: str, where: str | None) -> None:
        super().__init__(problem, option=option, where=where, hint="Send SIGUSR2 or restart the server.")


class CannotListenError(ConfigurationError):
    """The server cannot listen on an address at the moment."""

    exit_code = ExitCode.CANNOT_LISTEN


class CannotLoadError(WorkerguardError):
    """The project cannot be imported."""

    exit_code = ExitCode.LOAD_FAILED


class PairError(CannotLoadError):
    """A function that the site registered for the time around a fork has raised.

    It is a pair's `stop` or `start`, or a receiver of `before_mold_fork` or `after_fork_in_worker`.
    """


class AlreadyRunningError(CannotListenError):
    """Another server holds the pid file. It may end, so a service manager may retry."""


class NoServerError(WorkerguardError):
    """No running server was found."""

    exit_code = ExitCode.NO_SERVER


class CannotWriteError(WorkerguardError):
    """The output of a command cannot be written. It is no error, and has no text, if its reader has closed the pipe."""

    def __init__(self, error: OSError) -> None:
        closed = isinstance(error, BrokenPipeError)
        self.exit_code = ExitCode.OK if closed else ExitCode.CANNOT_WRITE
        super().__init__("" if closed else f"the output cannot be written: {error.strerror or error}")
