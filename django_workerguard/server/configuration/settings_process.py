"""A process that reads the settings for the arbiter, which does not wait for it. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace

from django_workerguard.arbiter.program import execute
from django_workerguard.config import settings_exchange
from django_workerguard.config.handover import Handover
from django_workerguard.errors import ConfigurationError
from django_workerguard.server.configuration.early_options import EarlyOptions
from django_workerguard.server.configuration.guarded_application import GuardedApplication

ANSWER = 3  # the descriptor in the child
LONGEST = 60.0  # seconds that settings get if load-timeout sets no limit
GRACE = 5.0  # seconds after which a process ends itself, should the arbiter not have ended it


class SettingsProcess:
    """A process that reads the settings, once. ``until`` is on the arbiter's clock."""

    def __init__(
        self, app: GuardedApplication, *, asked_by: str, now: float, early: EarlyOptions | None = None
    ) -> None:
        """Read the settings for a configuration, with its early options or others.

        Raises OSError or ConfigurationError if no process can be had.
        """
        self.asked_by = asked_by
        self.early = early or app.early
        self._patience = app.guard.options.load_timeout or LONGEST
        self.until = now + self._patience
        self._handover = app.handover
        self._overdue = False
        request, environ = settings_request(app, app.handover, self.early)
        self.fd = settings_exchange.write_request(request)
        arguments = settings_exchange.command(ANSWER, patience=self._patience + GRACE)
        try:
            self.pid = execute(arguments, environ, descriptors={ANSWER: self.fd})
        except OSError:
            os.close(self.fd)
            raise

    def give_up(self) -> None:
        """End a process that takes too long; its end is then reported as any other's."""
        self._overdue = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def drop(self) -> None:
        """Close the answer of a process, which is not wanted any more."""
        os.close(self.fd)

    def conclude(self) -> Handover:
        """Return the handover with what the settings say now, once the process has ended.

        Raises ConfigurationError if they say nothing, or what cannot be used.
        """
        answer = settings_exchange.read_answer(self.fd)
        os.close(self.fd)
        module = self._handover.settings_module
        if answer.silent and self._overdue:
            raise ConfigurationError(
                f"{module!r}: its import did not end within {self._patience:g} s (load-timeout)"
            )
        if answer.error:
            raise ConfigurationError(f"{module!r} cannot be imported: {answer.error}", option="settings")
        return with_settings(answer, self._handover)


def settings_request(
    app: GuardedApplication, handover: Handover, early: EarlyOptions | None = None
) -> tuple[settings_exchange.Request, dict[str, str]]:
    """Return what the process that reads the settings is to do, and its environment."""
    early = early or app.early
    request = settings_exchange.request_for(
        handover,
        app=app.read.app,
        module=early.environ.get("DJANGO_SETTINGS_MODULE") or "",
        chdir=early.chdir,
        pythonpath=early.pythonpath,
    )
    return request, settings_exchange.environment(app.environ_found, request, early.environ)


def with_settings(answer: settings_exchange.Answer, handover: Handover) -> Handover:
    """Return the handover with what the settings say. Raises ConfigurationError if it cannot be used."""
    if answer.wrong:
        raise ConfigurationError(answer.wrong, option="WORKERGUARD", where=handover.settings_module)
    return replace(
        handover,
        setting=answer.setting,
        applications=answer.applications,
        debug=answer.debug,
        environ=answer.environ,
    )
