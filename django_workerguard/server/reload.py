"""A reload: read the settings again, take the new configuration, begin a generation. Runs in the arbiter.

A configuration that cannot be taken changes nothing. The reload is then tried again, unless only a restart helps.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

from django_workerguard.arbiter.final_kill import PATIENCE
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.config.handover import Handover, rewrite
from django_workerguard.config.redact import in_short
from django_workerguard.errors import ConfigurationError, NeedsRestartError, WorkerguardError
from django_workerguard.policy import message as m
from django_workerguard.policy.view import Retry
from django_workerguard.scoreboard.places import server_name
from django_workerguard.server.configuration.early_options import EarlyOptions
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.configuration.process_state import ReloadTrial
from django_workerguard.server.configuration.settings_process import SettingsProcess
from django_workerguard.server.host import Host

UNSTEADY = "chdir, pythonpath or raw_env in gunicorn.conf.py change each time the file is read"


class Reload:
    """The reloads of one arbiter: at most one reads its settings at a time."""

    def __init__(self, host: Host, tracker: Tracker, *, clock: Callable[[], float], handover_fd: int) -> None:
        self._host = host
        self._tracker = tracker
        self._events = tracker.event_log
        self._clock = clock
        self._handover_fd = handover_fd
        self._process: SettingsProcess | None = None
        self._read_twice = False  # the settings, for the reload that goes on
        self._again = ""  # the sender of a request that came while the settings were being read

    @property
    def is_reading(self) -> bool:
        return self._process is not None

    @property
    def fd(self) -> int:
        """Return the descriptor that the settings are written to, which no child gets; -1 if none is read."""
        return -1 if self._process is None else self._process.fd

    def begin(self, asked_by: str) -> str | None:
        """Begin a reload; one that is still reading its settings begins again. Return why it is refused, or None."""
        self._tracker.tell(m.ReloadBegun())
        return self._begin(asked_by)

    def retry(self) -> None:
        """Begin a reload that was refused once more."""
        self._tracker.tell(m.ReloadBegun(retry=True))
        self._begin("retry of a refused reload")

    def _begin(self, asked_by: str) -> str | None:
        if self._tracker.fleet.stop is not None:
            return "the server is stopping"
        if self._process is not None:  # its answer would be out of date
            self._again = asked_by
            self._process.give_up()
            return None
        self._read_twice = False
        app = self._host.app
        if app.handover.configured:
            self._adopt(app.handover, asked_by, app.early)
            return None  # whether it was refused is an event
        return self._read(asked_by, app.early)

    def give_up(self) -> None:
        """End the process that reads the settings, if there is one."""
        if self._process is not None:
            self._process.give_up()

    def bound(self, now: float) -> None:
        """End the process that reads the settings if it takes too long, and go on without it if the kernel does not end it."""
        process = self._process
        if process is None or now <= process.until:
            return
        process.give_up()
        if now > process.until + PATIENCE:
            self._process = None
            process.drop()
            again, self._again = self._again, ""
            if again:
                self._begin(again)
            else:
                self._refuse(
                    f"the kernel does not end process {process.pid}, which reads the settings",
                    process.asked_by,
                )

    def ended(self, pid: int) -> bool:
        """Go on with a reload if this was the process that read the settings; return whether it was."""
        process = self._process
        if process is None or pid != process.pid:
            return False
        self._process = None
        again, self._again = self._again, ""
        if again or self._tracker.fleet.stop is not None:
            process.drop()
            if again:
                self._begin(again)
            return True
        try:
            handover = process.conclude()
        except Exception as error:
            self._refuse(_said(error), process.asked_by)
        else:
            self._adopt(handover, process.asked_by, process.early)
        return True

    def _read(self, asked_by: str, early: EarlyOptions) -> str | None:
        """Have the settings read by a process. Return why not."""
        try:
            self._process = SettingsProcess(self._host.app, asked_by=asked_by, now=self._clock(), early=early)
        except Exception as error:
            refused = f"the settings cannot be read: {_said(error)}"
            self._refuse(refused, asked_by)
            return refused
        return None

    def _refuse(self, reason: str, asked_by: str, retry: Retry = Retry.ALWAYS) -> None:
        sentence = reason if reason.endswith(".") else f"{reason}."
        self._tracker.reload_refused(sentence, asked_by, self._clock(), retry)

    def _adopt(self, handover: Handover, asked_by: str, early: EarlyOptions) -> None:
        """Apply a new configuration and begin a generation. If the configuration cannot be applied, nothing changes.

        ``early``: the options with which the settings were read. If the new configuration has other ones, the
        settings are read again with them.
        """
        other = self._try(handover, asked_by, early)
        gc.collect()  # the arbiter makes so few objects that it would keep the dropped modules for long
        if other is not None:
            self._read_again(asked_by, other)

    def _try(self, handover: Handover, asked_by: str, early: EarlyOptions) -> EarlyOptions | None:
        """Return the early options with which the settings have to be read again; None if it is begun or refused."""
        host, before = self._host, self._host.app
        refused = ""
        retry = Retry.SEVERAL
        try:
            trial = ReloadTrial(before.inheritance)
        except (Exception, SystemExit) as error:
            self._refuse(f"the modules of the site cannot be dropped: {in_short(error)}", asked_by)
            return None
        try:
            before.leave_environment()
            candidate = GuardedApplication(handover, before.inheritance)
            if candidate.early != early and not handover.configured:
                trial.take_back()
                return candidate.early
            candidate.settle(handover)
            refuse_what_needs_a_restart(host, candidate)
            rewrite(self._handover_fd, handover)
            host.take_logger(candidate.cfg)
            host.setup(candidate)
        except (Exception, SystemExit) as error:
            trial.take_back()
            self._restore(before)
            if not isinstance(error, ConfigurationError):
                host.log.exception("the new configuration cannot be used")
            elif isinstance(error, NeedsRestartError):
                retry = Retry.NEVER
            refused = _said(error)
        finally:
            trial.end()
            host.init_signals()  # what gunicorn.conf.py imports may have set handlers of its own, without Python
        if refused:
            self._refuse(refused, asked_by, retry)
        else:
            self._begin_generation(candidate, asked_by)
        return None

    def _begin_generation(self, app: GuardedApplication, asked_by: str) -> None:
        host, tracker = self._host, self._tracker
        host.follow_options()
        host.START_CTX["cwd"] = app.handover.directory or host.START_CTX["cwd"]
        # workers=auto chooses when the new code has been measured; until then the number stays
        target = None if app.auto_workers else app.cfg.workers
        tracker.tell(m.GenerationStarted(self._clock(), target))  # before what may fail
        if tracker.fleet.next_target is None:
            host.num_workers = tracker.fleet.target
        for line in app.warnings:
            host.log.warning("%s", line)
        host.log.reopen_files()
        host.introduce()
        self._events.reloading(tracker.fleet.generation, asked_by)
        host.hook("on_reload")

    def _read_again(self, asked_by: str, early: EarlyOptions) -> None:
        """Read the settings with the early options of a new configuration, once for a reload."""
        if self._read_twice:
            self._refuse(UNSTEADY, asked_by)
            return
        self._read_twice = True
        self._read(asked_by, early)

    def _restore(self, before: GuardedApplication) -> None:
        with contextlib.suppress(Exception):  # a hook of the user's own that fails here as well
            rewrite(self._handover_fd, before.handover)
            self._host.take_logger(before.cfg)
            self._host.setup(before)


def _said(error: BaseException) -> str:
    """Return what an error says; one that is not ours without secrets."""
    return str(error) if isinstance(error, WorkerguardError) else in_short(error)


def refuse_what_needs_a_restart(host: Host, after: GuardedApplication) -> None:
    """Raise NeedsRestartError where a new configuration changes what a running server cannot."""
    before, layout = host.app, host.board.layout
    project = Path(before.handover.project)
    # the sockets that systemd has opened are served whatever `bind` says
    old_bind, new_bind = (None if host.systemd else app.cfg.address for app in (before, after))
    for name, old, new, sources in (
        ("bind", old_bind, new_bind, after.sources),
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
            raise NeedsRestartError(
                f"a reload cannot change it from {old!r} to {new!r}",
                option=name.replace("_", "-"),
                where=sources.get(name),
            )
    workers, surge = after.cfg.workers, after.guard.options.surge
    if workers > layout.slots or 2 * workers + surge > layout.seats:
        raise NeedsRestartError(
            f"{workers} workers and a surge of {surge} do not fit this server, which has {layout.slots} slots and "
            f"{layout.seats} seats",
            option="workers",
            where=after.sources.get("workers"),
        )
