"""Signals and requests: what others ask of the arbiter. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from dataclasses import replace
from typing import Any

from gunicorn.errors import HaltServer

from django_workerguard.arbiter.control_socket import Request
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.config.handover import Handover, rewrite
from django_workerguard.errors import ConfigurationError, ExitCode
from django_workerguard.policy import message as m
from django_workerguard.server.configuration import GuardedApplication
from django_workerguard.server.early_options import EarlyOptions
from django_workerguard.server.process_state import ReloadTrial
from django_workerguard.server.reload import SettingsProcess, refuse_what_needs_a_restart


class Handlers:
    """The arbiter's part that turns what is asked into messages to the fleet."""

    # the arbiter, as far as it is leaned on
    cfg: Any
    log: Any
    board: Any
    num_workers: int
    dirty_arbiter_pid: int
    reap_dirty_arbiter: Any
    kill_dirty_arbiter: Any
    reexec: Any
    _fleet: Any
    _clock: Any
    _tracker: Tracker
    _event_log: Any
    _control: Any
    _nursery: Any
    app: Any
    setup: Any
    init_signals: Any
    _introduce: Any
    _handover_fd: int
    _socket_files: dict[str, tuple[int, int]]
    START_CTX: dict[Any, Any]
    _settings_process: SettingsProcess | None = None
    _read_twice = False  # the settings, for the reload that goes on
    _reload_again = ""  # who asked for a reload while one was reading

    def handle_chld(self) -> None:
        """Children are reaped at every tick."""
        self.reap_dirty_arbiter()

    handle_cld = handle_chld

    def handle_hup(self) -> None:
        """Read settings and configuration again, and replace every worker by one with the code as it is now."""
        self._reload("SIGHUP")

    def _reload(self, asked_by: str) -> str | None:
        """Begin a reload, or have the one that is reading begin anew; return why not."""
        if self._fleet.stop is not None:
            return "the server is stopping"
        if self._settings_process is not None:  # superseded: what it would say is out of date
            self._reload_again = asked_by
            self._settings_process.give_up()
            return None
        self._read_twice = False
        if self.app.handover.configured:
            self._adopt(self.app.handover, asked_by, self.app.early)
            return None
        return self._begin_reading(asked_by, self.app.early)

    def _begin_reading(self, asked_by: str, early: EarlyOptions) -> str | None:
        """Have the settings read by a process; return why not."""
        try:
            self._settings_process = SettingsProcess(
                self.app, asked_by=asked_by, now=self._clock(), early=early
            )
        except (OSError, ConfigurationError) as error:
            refused = f"the settings cannot be read: {getattr(error, 'strerror', None) or error}"
            self._event_log.reload_refused(refused, asked_by)
            return refused
        return None

    def _bound_rereading(self, now: float) -> None:
        reading = self._settings_process
        if reading is not None and now > reading.until:
            reading.give_up()

    def _reread(self) -> None:
        """Go on with a reload: the process that read the settings has ended."""
        reading, self._settings_process = self._settings_process, None
        if reading is None:
            return
        again, self._reload_again = self._reload_again, ""
        if again or self._fleet.stop is not None:
            reading.drop()
            self._reload(again)
            return
        try:
            handover = reading.conclude()
        except ConfigurationError as error:
            self._event_log.reload_refused(str(error), reading.asked_by)
        else:
            self._adopt(handover, reading.asked_by, reading.early)

    def _adopt(self, handover: Handover, asked_by: str, early: EarlyOptions) -> None:
        """Take a new configuration and begin a generation; if it cannot be taken nothing changes.

        ``early``: the options with which the settings were read. If the new configuration has others, the
        settings are read again with those.
        """
        before = self.app
        try:
            trial = ReloadTrial(before.inheritance)
        except OSError as error:
            self._event_log.reload_refused(f"no file can be opened: {error.strerror}", asked_by)
            return
        try:
            before.leave_environment()
            candidate = GuardedApplication(handover, before.inheritance)
            if candidate.early != early and not handover.configured:
                trial.take_back()
                self._read_again(asked_by, candidate.early)
                return
            candidate.settle(handover)
            refuse_what_needs_a_restart(before, candidate, self.board.layout)
            self._take_logger(candidate.cfg)
            self.setup(candidate)
        except Exception as error:
            trial.take_back()
            self._restore(before)
            if not isinstance(error, ConfigurationError):
                self.log.exception("the new configuration cannot be taken")
            self._event_log.reload_refused(str(error), asked_by)
            return
        finally:
            trial.end()
            self.init_signals()  # gunicorn.conf.py, or what it imports, may have set handlers of its own
        self._tracker.follow(candidate.policy)
        self.START_CTX["cwd"] = handover.directory or self.START_CTX["cwd"]
        rewrite(self._handover_fd, handover)
        for line in candidate.warnings:
            self.log.warning("%s", line)
        self.log.reopen_files()
        self._introduce()
        self._tracker.tell(m.GenerationStarted(self._clock(), candidate.cfg.workers))
        self._event_log.reloading(self._fleet.generation, asked_by)
        self._hook("on_reload")

    def _take_logger(self, cfg: Any) -> None:
        """Make the logger anew if its class is another one, or the project's and imported anew."""
        logger_class = cfg.logger_class
        if type(self.log) is not logger_class:
            self.log = logger_class(cfg)
            self._event_log.log_to(self.log)

    def _read_again(self, asked_by: str, early: EarlyOptions) -> None:
        """Read the settings with the early options of a new configuration, once for a reload."""
        if self._read_twice:
            refused = (
                "chdir, pythonpath or raw_env of gunicorn.conf.py have other values each time it is read"
            )
            self._event_log.reload_refused(refused, asked_by)
            return
        self._read_twice = True
        self._begin_reading(asked_by, early)

    def _restore(self, before: Any) -> None:
        with contextlib.suppress(Exception):  # a hook of the user's own that fails here as well
            self._take_logger(before.cfg)
            self.setup(before)

    def _hook(self, name: str, *arguments: Any) -> None:
        """Run one of the user's hooks. What it raises is logged: `sys.exit` in a hook does not end the server."""
        try:
            getattr(self.cfg, name)(self, *arguments)
        except HaltServer:
            raise
        except BaseException:
            self.log.exception("Exception in %s hook", name)

    def handle_term(self) -> None:
        self._stop(quick=False)

    def handle_int(self) -> None:
        self._stop(quick=True)

    handle_quit = handle_int

    def _stop(self, *, quick: bool) -> None:
        again = self._fleet.stop is not None
        if again and not quick:
            return
        if self._settings_process is not None:
            self._settings_process.give_up()
        self._tracker.tell(m.StopAsked(self._clock(), quick or again))
        self._event_log.stopping(quick=quick, drain_delay=self._tracker.policy.drain_delay)

    def handle_ttin(self) -> None:
        self._scale(self._fleet.target + 1, "SIGTTIN")

    def handle_ttou(self) -> None:
        self._scale(self._fleet.target - 1, "SIGTTOU")

    def _scale(self, target: int, asked_by: str) -> str | None:
        """Change the target; return why not."""
        if not 1 <= target <= self.board.layout.slots:
            return self._no_scale(f"it can be 1 to {self.board.layout.slots}", asked_by)
        quorum = self._tracker.policy.min_loaded
        if target < quorum:
            return self._no_scale(f"a quorum of {quorum} (min-loaded) needs as many workers", asked_by)
        self._tracker.tell(m.TargetChanged(target))
        self.num_workers = target
        self._event_log.scaled(target, asked_by)
        return None

    def _no_scale(self, why: str, asked_by: str) -> str:
        refused = f"the target stays {self._fleet.target}: {why}"
        self.log.warning("%s (%s)", refused, asked_by)
        return refused

    def handle_usr1(self) -> None:
        """Reopen the log files, here and in every worker, each readable for the workers' user first."""
        self.log.reopen_files()
        self._chown_logs()
        self._nursery.signal(signal.SIGUSR1)
        if self.dirty_arbiter_pid:
            self.kill_dirty_arbiter(signal.SIGUSR1)

    def _chown_logs(self) -> None:
        if os.geteuid() != 0 or self.cfg.uid == 0:
            return
        for setting in ("errorlog", "accesslog"):
            path = self.cfg.settings[setting].get()
            if path and path != "-":
                _hand_over(path, self.cfg.uid, self.cfg.gid)

    def handle_usr2(self) -> None:
        arbiter = os.getpid()
        files = {path: list(file) for path, file in self._socket_files.items()}
        try:
            rewrite(self._handover_fd, replace(self.app.handover, socket_files=files))
            self.reexec()
        except OSError as error:
            self.log.error("USR2: no second arbiter: %s", error.strerror)
        except BaseException:
            self.log.exception("USR2: no second arbiter")
        finally:
            if os.getpid() != arbiter:  # the child that could not become one
                os._exit(ExitCode.UNEXPECTED)

    def _serve_requests(self) -> None:
        if self._control is None:
            return
        for request in self._control.requests():
            refused = request.refused or self._asked(request)
            self._event_log.asked(request, refused, self._clock())
            self._control.answer(request, refused)

    def _asked(self, request: Request) -> str | None:
        """Do what was asked; return why not."""
        match request.do:
            case "wake":
                return None
            case "reload":
                return self._reload(request.who)
            case "scale":
                target = request.arguments.get("target")
                if not isinstance(target, int) or isinstance(target, bool):
                    return self._no_scale(f"{target!r} is not a whole number", request.who)
                return self._scale(target, request.who)
            case "recycle":
                return self._tracker.recycle(request.arguments, request.who)
            case _:
                return f"{request.do!r} is not known"


def _hand_over(path: str, uid: int, gid: int) -> None:
    """Give a log file to the workers' user; nothing else, which that user may have put there: no link, no second name."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.fchown(fd, uid, gid)
        finally:
            os.close(fd)
