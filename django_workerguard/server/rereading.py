"""Read the settings again for a reload, without waiting for it. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from django_workerguard.config import reading
from django_workerguard.config.handover import Handover
from django_workerguard.errors import ConfigurationError
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.places import server_name
from django_workerguard.server.executing import execute

ANSWER = 3  # the descriptor in the child
LONGEST = 60.0  # seconds that settings get where load-timeout sets no limit
GRACE = 5.0  # seconds after which a process ends itself that nobody has ended


class Rereading:
    """A process that imports the settings module, once. ``until`` is on the arbiter's clock."""

    def __init__(self, handover: Handover, *, asked_by: str, now: float, patience: float) -> None:
        """Raise OSError where no process can be had."""
        self.asked_by = asked_by
        self._patience = patience or LONGEST
        self.until = now + self._patience
        self._handover = handover
        self._overdue = False
        self._fd = os.memfd_create("workerguard-settings")
        arguments, environ = reading.command(
            handover.settings_module, ANSWER, handover.sys_path, patience=self._patience + GRACE
        )
        try:
            self.pid = execute(arguments, environ, given={ANSWER: self._fd})
        except OSError:
            os.close(self._fd)
            raise

    def give_up(self) -> None:
        """End a process that takes too long; its end is then reported as any other's."""
        self._overdue = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def drop(self) -> None:
        """Forget what an ended process has said: it is wanted no more."""
        os.close(self._fd)

    def conclude(self) -> Handover:
        """Return the handover with what the settings say now, once the process has ended.

        Raises ConfigurationError where they say nothing, or what cannot be used.
        """
        told: dict[str, Any] = reading.answer(self._fd)
        os.close(self._fd)
        module = self._handover.settings_module
        if self._overdue:
            raise ConfigurationError(
                f"{module!r}: no end of its import after {self._patience:g} s (load-timeout)"
            )
        if "setting" not in told:
            problem = told.get("wrong") or f"{module!r} cannot be imported: {told['error']}"
            raise ConfigurationError(problem, option="settings")
        return replace(self._handover, setting=told["setting"], applications=told["applications"])


def take_environment_back(cfg: Any) -> None:
    """Undo what `raw_env` set, as gunicorn does before it reads a configuration again."""
    for name in cfg.env:
        if name in cfg.env_orig:
            os.environ[name] = cfg.env_orig[name]
        else:
            os.environ.pop(name, None)


def refuse_what_needs_a_restart(before: Any, after: Any, layout: Layout) -> None:
    """Raise ConfigurationError where a new configuration changes what a running server cannot."""
    project = Path(before.handover.project)
    for name, old, new, sources in (
        ("bind", before.cfg.address, after.cfg.address, after.sources),
        ("user", before.cfg.uid, after.cfg.uid, after.sources),
        ("group", before.cfg.gid, after.cfg.gid, after.sources),
        ("pidfile", before.cfg.pidfile, after.cfg.pidfile, after.sources),
        ("run_dir", before.guard.options.run_dir, after.guard.options.run_dir, after.guard.sources),
        (
            "name",
            server_name(before.guard.options.name, project),
            server_name(after.guard.options.name, project),
            after.guard.sources,
        ),
    ):
        if old != new:
            raise ConfigurationError(
                f"a reload cannot change it from {old!r} to {new!r}",
                option=name.replace("_", "-"),
                where=sources.get(name),
                hint="Send SIGUSR2 or restart the server.",
            )
    workers, surge = after.cfg.workers, after.guard.options.surge
    if workers > layout.slots or 2 * workers + surge > layout.seats:
        raise ConfigurationError(
            f"{workers} workers and a surge of {surge} do not fit this server, which has {layout.slots} slots and "
            f"{layout.seats} seats",
            option="workers",
            where=after.sources.get("workers"),
            hint="Send SIGUSR2 or restart the server.",
        )
