"""Errors that a person reads, and the exit codes of every command. Runs anywhere."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the server and of the ``workerguard`` command."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    LOAD_FAILED = 22  # uWSGI's code for need-app
    REFUSED = 65  # the server refused what a command asked for (EX_DATAERR)
    UNAVAILABLE = 69  # a probe said no (EX_UNAVAILABLE)
    CANNOT_LISTEN = 71  # an address is in use, or not to be had (EX_OSERR): it may be later
    NO_SERVER = 72  # no running server was found
    TIMED_OUT = 75  # what a command waited for has not happened in time (EX_TEMPFAIL)


class WorkerguardError(Exception):
    """Something that is reported in one line, never with a traceback."""

    exit_code = ExitCode.UNEXPECTED


class ConfigurationError(WorkerguardError):
    """A wrong option, setting or path.

    Says what is wrong, which option it was, where it was set and what to do.
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
            line += f" (set in {self.where})"
        if not line.endswith("."):
            line += "."
        if self.hint:
            line += f" {self.hint}"
        return line


class CannotListenError(ConfigurationError):
    """An address at which to listen cannot be had just now."""

    exit_code = ExitCode.CANNOT_LISTEN


class CannotLoadError(WorkerguardError):
    """The project cannot be imported."""

    exit_code = ExitCode.LOAD_FAILED


class AlreadyRunningError(CannotListenError):
    """Another server holds the pid file: it may end, so a service manager may try again."""


class NoServerError(WorkerguardError):
    """No running server was found where one was looked for."""

    exit_code = ExitCode.NO_SERVER
