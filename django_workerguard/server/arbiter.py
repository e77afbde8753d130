"""The arbiter: observe, plan, apply. Runs in the arbiter.

It holds no decision: events become messages to the fleet, `plan` returns actions, and this applies them. It survives
actions that fail: a fork that fails, a full disk, no free descriptor, no memory; and being suspended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from django_workerguard.arbiter.apply import Applier
from django_workerguard.arbiter.burial import Burial
from django_workerguard.arbiter.children import Child, Children
from django_workerguard.arbiter.control_socket import ControlSocket, WakePipe, open_beside
from django_workerguard.arbiter.event_log import EventLog
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.molds import Channels, Molds
from django_workerguard.arbiter.oom_score import protect_arbiter
from django_workerguard.arbiter.run_files import RunFiles
from django_workerguard.arbiter.stack_requests import StackRequests
from django_workerguard.arbiter.steps import act, run_steps
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.config.handover import STOP_SIGNALS
from django_workerguard.config.text import plain
from django_workerguard.errors import ConfigurationError
from django_workerguard.notify.runner import Notifier
from django_workerguard.policy import message as m
from django_workerguard.policy.plan import next_deadline
from django_workerguard.policy.reason import Reason
from django_workerguard.policy.view import Fleet
from django_workerguard.probe.clock import AwakeClock, monotonic_ns
from django_workerguard.scoreboard.discovery import ready_workers
from django_workerguard.scoreboard.header import Header, Phase
from django_workerguard.scoreboard.in_hand import requests_in_hand
from django_workerguard.scoreboard.layout import SeatKind
from django_workerguard.scoreboard.places import Opened, server_name
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.fork import GunicornFork
from django_workerguard.server.gunicorn_control import AskedTarget, be_quiet_about_ended_connections
from django_workerguard.server.listeners import (
    File,
    close_listeners,
    give_socket_files,
    socket_files,
    start_error,
)
from django_workerguard.server.lost_requests import write_access_lines
from django_workerguard.server.pid_file import remove_stale
from django_workerguard.server.reload import Reload
from django_workerguard.server.sd_notify import ServerStatus, Systemd
from django_workerguard.server.signals import Signals
from django_workerguard.server.statsd_gauges import Gauges
from django_workerguard.server.workers.mixin import guarded_class

if TYPE_CHECKING:
    from django_workerguard.monitor.runner import Monitor

FAREWELL = 10.0  # seconds that the receivers of the last notice get, once no worker is left
MOST_TRIES = 10  # of a signal whose handler fails


def _ended() -> Iterator[tuple[int, int]]:
    """Yield every child that has ended, with its wait status."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


class GuardedArbiter(Arbiter):
    """gunicorn's arbiter, its workers managed by the policy."""

    # compared with 8-bit exit codes, so never equal: no worker's exit code halts the server
    WORKER_BOOT_ERROR = 0x103
    APP_LOAD_ERROR = 0x104

    # gunicorn's own, which ships no types
    app: GuardedApplication
    log: Any
    cfg: Any
    LISTENERS: list[Any]
    WORKERS: dict[int, Any]
    START_CTX: dict[Any, Any]
    worker_class: type[Any]
    reexec_pid: int
    master_pid: int
    dirty_arbiter_pid: int
    _num_workers: int | None

    def __init__(self, app: GuardedApplication, opened: Opened, *, handover_fd: int) -> None:
        self.board = opened.board
        self._board_warning = opened.warning
        self._handover_fd = handover_fd
        self._clock = AwakeClock()
        self._systemd = Systemd(os.environ, os.getpid())
        self._notifier = Notifier()
        self._monitor: Monitor | None = None
        self._has_started = False
        self._gauges = Gauges()
        self._asked_target = AskedTarget()
        super().__init__(app)
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._tracker = Tracker(self.board, self.log, app.policy, target=app.cfg.workers)
        self._tracker.publish(self._clock(), phase=Phase.STARTING)
        self._reload = Reload(self, self._tracker, clock=self._clock, handover_fd=handover_fd)
        self._run_files = RunFiles(opened, restored=self._event_log.restored, lost=self._event_log.lost)
        self._control: ControlSocket | None = None
        self._slow_requests: Any = None  # once the option slow-request is set
        self._auto_workers: Any = None  # once the number of workers is auto
        self._touched_files: Any = None  # once the option touch-reload is set
        self._socket_files: dict[
            str, File
        ] = {}  # by path: the files of unix sockets that this arbiter removes
        self._failed_signals: list[tuple[int, int]] = []  # number, tries
        self._second_serves = False  # the arbiter that SIGUSR2 has started has a ready worker

    @property
    def _fleet(self) -> Fleet:
        return self._tracker.fleet

    @property
    def _event_log(self) -> EventLog:
        return self._tracker.event_log

    @property
    def num_workers(self) -> int:
        """Gunicorn's word for the target. Setting it runs the user's hook, which may fail the start and nothing later.

        gunicorn's control socket sets it from a thread of its own: a tick soon after scales to it.
        """
        return self._num_workers or 0

    @num_workers.setter
    def num_workers(self, target: int) -> None:
        before, self._num_workers = self._num_workers, target
        if threading.current_thread() is not threading.main_thread():
            self._asked_target.ask(target)
        elif before is None:
            self.cfg.nworkers_changed(self, target, before)
        else:
            self.hook("nworkers_changed", target, before)

    # start

    def setup(self, app: Any) -> None:
        try:
            super().setup(app)
        except RuntimeError as error:  # a log file that cannot be opened
            raise app.blame(error) from error
        options = app.guard.options
        if options.log_format == "json":
            import_module("django_workerguard.server.json_log").write_json(self.log)
        elif options.log_format == "uwsgi":
            import_module("django_workerguard.server.uwsgi_log").write_as_uwsgi(self.log)
        self._notifier.configure(options, app.handover, self.log)
        self.worker_class = guarded_class(self.worker_class)  # type: ignore[arg-type] # a class is hashable
        self._configure_monitor(app)  # last: it may take another address

    def _configure_monitor(self, app: GuardedApplication) -> None:
        """Have the monitor take its settings. Its module is imported here, because most servers have none."""
        if self._monitor is None and (app.guard.options.monitor_bind or app.handover.monitor):
            module = import_module("django_workerguard.monitor.runner")
            monitor: Monitor = module.Monitor(self.board, event_log=lambda: self._event_log)
            if self._has_started:
                monitor.open({})
            self._monitor = monitor
        if self._monitor is not None:
            self._monitor.configure(app.monitor, self.log)

    def start(self) -> None:
        """Start as gunicorn does, but tell systemd READY only once the quorum is loaded."""
        stale = self._remove_stale_pid_file()
        protect_arbiter()
        notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
        try:
            if self._monitor is not None:
                self._monitor.open(self.app.handover.monitor)
            self._has_started = True
            super().start()
            self._socket_files = self._made_socket_files()
            if not self.master_pid:
                give_socket_files(self._socket_files, self.app)
        except (SystemExit, Exception) as error:
            self._close_monitor(alone=not self.app.handover.monitor)
            close_listeners(self.LISTENERS, self._socket_files)
            if self.pidfile is not None:
                self.pidfile.unlink()
            if isinstance(error, ConfigurationError):
                raise
            cause = start_error(error, self.app)
            if cause is None:
                raise
            raise cause from error
        finally:
            if notify_socket is not None:
                os.environ["NOTIFY_SOCKET"] = notify_socket
        self.follow_options()
        self._wake = WakePipe()
        self._control = open_beside(self.board.path, owner=self.cfg.uid, log=self.log)
        channels = Channels()
        fork = GunicornFork(
            self, wake=self._wake, control=self._control, channels=channels, secrets=self._own_descriptors
        )
        self._children = Children(self._tracker.seats, fork, self._event_log, mold_fork=fork)
        self._stack_requests = StackRequests(self._children, self._tracker, clock=self._clock)
        self._molds = Molds(self._tracker, self._children, channels)
        self._applier = Applier(self._tracker, self._children, self)
        self._burial = Burial(
            self._tracker,
            self._children,
            bury=self._bury,
            survives=self._survives,
            clock=self._clock,
            close_channel=channels.close,
        )
        self._signals = Signals(
            self,
            self._tracker,
            self._children,
            self._reload,
            self._stack_requests,
            hand_over_monitor=self._hand_over_monitor,
            clock=self._clock,
            handover_fd=self._handover_fd,
            socket_files=self._socket_files,
        )
        self.log.info("configuration file: %s", plain(str(self.app.read.file)))
        for line in (*self.app.warnings, self._board_warning, self._systemd.warning, stale):
            if line:
                self.log.warning("%s", plain(line))
        self.introduce()
        self._event_log.started(self.pid, self._addresses, self.cfg.workers)

    def _made_socket_files(self) -> dict[str, File]:
        """Return the files of the unix sockets that this arbiter, or the one that was sent SIGUSR2 before it, has made."""
        if self.master_pid:
            return {path: (device, inode) for path, (device, inode) in self.app.handover.socket_files.items()}
        return {} if self.systemd else socket_files(self.LISTENERS)

    def init_signals(self) -> None:
        """Take the signals, at the start and after each reading of the configuration, which may have taken some."""
        super().init_signals()
        signal.signal(signal.SIGIO, lambda _number, _frame: self.wakeup())

    def signal(self, number: int, frame: FrameType | None) -> None:
        """Take a signal. In a process that gunicorn.conf.py or a hook has forked, SIGTERM and its like end that process."""
        if os.getpid() == self.pid:
            super().signal(number, frame)
        elif number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _remove_stale_pid_file(self) -> str | None:
        if self.cfg.pidfile is None:
            return None
        successor = ".2" if "GUNICORN_PID" in os.environ else ""
        return remove_stale(self.cfg.pidfile + successor, where=self.app.sources.get("pidfile"))

    @property
    def _addresses(self) -> list[str]:
        return [str(one) for one in self.LISTENERS]

    def _own_descriptors(self) -> Iterator[int]:
        """Yield the descriptors that no child gets: those with secrets in them, and a lock."""
        yield self._handover_fd
        yield self._reload.fd
        yield from self._run_files.descriptors()
        if self._monitor is not None:
            yield self._monitor.surrender()

    def introduce(self) -> None:
        app = self.app
        self._event_log.introduce(
            name=server_name(app.guard.options.name, Path(app.handover.project)),
            project=app.handover.project,
            bind=self._addresses,
            debug=app.handover.debug,
            settings=app.handover.settings_module,
            worker_class=app.cfg.worker_class_str,
            replaces=self.master_pid,  # the arbiter that was sent SIGUSR2; 0: none
        )

    # the loop

    def run(self) -> None:
        """Serve until asked to stop. Ends the process with SystemExit."""
        self.start()
        util._setproctitle(f"master [{self.proc_name}]")
        if not self.cfg.control_socket_disable:
            be_quiet_about_ended_connections()
        self._start_control_server()
        end = self._serve()
        self._event_log.halted(end.reason, end.exit_status, self._fleet)
        self.halt(exit_status=end.exit_status)

    def _serve(self) -> HaltServer:
        try:
            while True:
                self._turn()
        except HaltServer as end:
            return end

    def _turn(self) -> None:
        """Run one round. A step that fails costs a second, and neither the other steps nor a signal."""
        patience = self._seconds_to_next_tick() if self._tick() else 1.0
        retried, self._failed_signals = self._failed_signals, []
        received: list[int] = []
        self._survives(lambda: received.extend(self.wait_for_signals(patience)))
        for number, tries in (*retried, *((number, 0) for number in received)):
            if not self._survives(self._handle, number) and tries < MOST_TRIES:
                self._failed_signals.append((number, tries + 1))

    def _survives(self, step: Callable[..., Any], *arguments: Any) -> bool:
        """Run a step. An exception in it is logged and survived; return whether there was none.

        In a child SystemExit ends the process; in the arbiter it comes from a hook of the user's.
        """
        try:
            step(*arguments)
        except HaltServer:
            raise
        except BaseException:
            if os.getpid() != self.pid:
                raise
            self._event_log.own_error()
            return False
        return True

    def _handle(self, number: int) -> None:
        name = self.SIG_NAMES.get(number)
        # SIGWINCH and others that the guard does not handle are gunicorn's
        handler = self._signals.handlers.get(number) or getattr(self, f"handle_{name}", None)
        if handler is None:
            self.log.error("Unhandled signal: %s", name or number)
            return
        (self.log.debug if number == signal.SIGCHLD else self.log.info)("Handling signal: %s", name)
        handler()

    def _seconds_to_next_tick(self) -> float:
        """Return the seconds until the next tick is due, if nothing happens before."""
        due: list[float] = []
        now = self._clock()
        self._survives(lambda: due.append(next_deadline(self._tracker.policy, self._fleet, now)))
        return max(0.001, min(1.0, due[0] - now)) if due else 1.0

    def _tick(self) -> bool:
        """Run every step, and return whether all succeeded. If one step fails, the others still run."""
        now = self._clock()
        steps: tuple[Callable[[], Any], ...] = (
            self._promote,
            self._wake.drain,
            lambda: self._tracker.serve(self._control, self._signals.respond, now),
            lambda: self._follow_gunicornc(now),
            self.reap_workers,
            lambda: self._molds.receive(now),
            lambda: self._reload.bound(now),
            lambda: self._tracker.observe(now),
            self._look_at_second_arbiter,  # when it is known whether a worker is ready, and before 503 is answered
            lambda: self._tracker.measure(now, self.LISTENERS),
            lambda: act(self._survives, self._tracker, self._applier, self._clock()),
            lambda: self._look_at_sizes(now),
            lambda: self._tracker.publish(self._clock(), phase=self._phase()),
            lambda: self._run_files.restore_missing(self._control, now),
            lambda: self._tell_systemd(now),
            lambda: self._children.kill_strays(self._fleet.seats),
            self.manage_dirty_arbiter,
            self._stack_requests.tick,
            self._look_for_slow_requests,
            self._look_for_touched_files,
            self._send_gauges,
            lambda: self._notifier.tick(lambda: snapshot(self.board), now),
            lambda: self._run_monitor(now),
        )
        return run_steps(self._survives, steps)

    def _look_at_sizes(self, now: float) -> None:
        if not self.app.auto_workers:
            self._auto_workers = None
            return
        if self._auto_workers is None:
            module = import_module(
                "django_workerguard.server.auto_workers"
            )  # here, because most sites need none of it
            self._auto_workers = module.AutoWorkers(self._tracker, scale=self._signals.scale)
        self._auto_workers.look(now, self.log.info, event_loop=self.app.has_event_loop)

    def _look_for_slow_requests(self) -> None:
        limit = self.app.guard.options.slow_request
        if limit and self._slow_requests is None:
            module = import_module(
                "django_workerguard.arbiter.slow_requests"
            )  # here, because most sites need none of it
            self._slow_requests = module.SlowRequests(self._tracker, self._stack_requests, clock=self._clock)
        if self._slow_requests is not None:
            self._slow_requests.look(limit)

    def _look_for_touched_files(self) -> None:
        paths = self.app.guard.options.touch_reload
        if paths != (self._touched_files.paths if self._touched_files else ()):
            # imported here, because most sites need none of it
            module = import_module("django_workerguard.server.touched_files")
            self._touched_files = module.TouchedFiles(paths)
        # a file that changes all the time must not undo the reload that is going on
        if self._touched_files is None or self._reload.is_reading:
            return
        path = self._touched_files.changed()
        if path is not None:
            self._reload.begin(f"touch-reload {path}")

    def _promote(self) -> None:
        before = self.master_pid
        self._survives(self.maybe_promote_master)  # the directory of the pid file may be gone
        if before and not self.master_pid:  # the arbiter that was sent SIGUSR2 has ended
            self._survives(self.follow_options)
            self._survives(self._systemd.main_pid, self.pid)

    def follow_options(self) -> None:
        """Decide by the options of the configuration.

        The arbiter that was sent SIGUSR2 has the same listeners. As long as it lives, whether 503 is answered is its decision:
        it answers none while the second arbiter has a ready worker.
        """
        policy = self.app.policy
        answers = policy.answers and not self.master_pid and not self._second_serves
        self._tracker.follow(replace(policy, answers=answers))

    def _look_at_second_arbiter(self) -> None:
        """Read on the board of the second arbiter whether it has a ready worker, if this arbiter has none itself."""
        path, serves = self.board.path, False
        if self.reexec_pid and path is not None and not self._fleet.ready:
            serves = ready_workers(str(path.parent), self.reexec_pid) > 0
        if serves != self._second_serves:
            self._second_serves = serves
            self.follow_options()

    def _follow_gunicornc(self, now: float) -> None:
        """Scale to the target that gunicorn's own control socket has set."""
        target = self._asked_target.due(now)
        if target not in (None, self._fleet.target) and self._signals.scale(
            target, "gunicorn's control socket"
        ):
            self._num_workers = self._fleet.target  # refused

    def _send_gauges(self) -> None:
        listeners = self.LISTENERS if self.cfg.enable_backlog_metric else None
        self._gauges.send(self.log, workers=len(self.WORKERS), listeners=listeners)

    def _run_monitor(self, now: float) -> None:
        if self._monitor is None:
            return
        retiring = bool(self.reexec_pid) and self._fleet.stop is not None
        self._monitor.tick(now, has_predecessor=bool(self.master_pid), retiring=retiring)

    def _hand_over_monitor(self) -> contextlib.AbstractContextManager[dict[str, Any]]:
        return contextlib.nullcontext({}) if self._monitor is None else self._monitor.handed_over()

    def _close_monitor(self, *, alone: bool) -> None:
        if self._monitor is not None:
            self._monitor.close(alone=alone)

    def _phase(self) -> int:
        if self._fleet.stop is not None:
            return Phase.DRAINING if self._fleet.listening else Phase.STOPPING
        return Phase.SERVING

    def _tell_systemd(self, now: float) -> None:
        fleet = self._fleet
        status = ServerStatus(
            ready=fleet.ready,
            target=fleet.target,
            reached=bool(self.board.words[Header.REACHED]),
            reloading=self._reload.is_reading or (fleet.reloading and not fleet.frozen),
            stopping=fleet.stop is not None,
            why=str(fleet.last_failure or ""),
            frozen=fleet.frozen,
            successor=self.reexec_pid,
        )
        self._systemd.update(status, now, monotonic_us=monotonic_ns() // 1000)

    # what the actions need

    def ask_to_leave(self, seat: int, *, quick: bool) -> None:
        self._children.signal(seat, signal.SIGQUIT if quick else signal.SIGTERM)

    def reload_again(self) -> None:
        self._reload.retry()

    def close_listeners(self) -> None:
        listeners, self.LISTENERS = self.LISTENERS, []
        close_listeners(listeners, self._socket_files if self._is_alone else {})

    @property
    def _is_alone(self) -> bool:
        """Whether no other arbiter has the same listeners, as after SIGUSR2."""
        return self.reexec_pid == self.master_pid == 0

    def give_up(self, code: int, reason: Reason) -> None:
        """Tell the receivers of notices at once: there may be no later."""
        self._notifier.give_up(snapshot(self.board), reason, self._clock())

    def end(self, code: int, reason: Reason | None) -> None:
        self._notifier.finish(FAREWELL)
        raise HaltServer(str(reason or ""), code)

    # what a reload needs

    def hook(self, name: str, *arguments: Any) -> None:
        """Run one of the user's hooks. An exception in it is logged: `sys.exit` in a hook does not end the server."""
        try:
            getattr(self.cfg, name)(self, *arguments)
        except HaltServer:
            raise
        except BaseException:
            self.log.exception("Exception in %s hook", name)

    def take_logger(self, cfg: Any) -> None:
        """Make the logger again if its class is another one, or the project's and imported again."""
        logger_class = cfg.logger_class
        if type(self.log) is not logger_class:
            self.log = logger_class(cfg)
            self._event_log.log_to(self.log)

    # children that have ended

    def reap_workers(self) -> None:
        """Collect every child that has ended, each by its role."""
        for pid, status in _ended():
            if pid == self.reexec_pid:
                self.reexec_pid = 0
            elif (
                self._reload.ended(pid)
                or self._notifier.ended(pid, status)
                or (self._monitor is not None and self._monitor.ended(pid, status, self._clock()))
            ):
                continue
            elif pid == self.dirty_arbiter_pid:
                self.handle_dirty_arbiter_exit(pid, status)
            else:
                self._children.ended(pid, Exit.of(status))
        for child in self._burial.run():
            self.WORKERS.pop(child.pid, None)
            if child.is_worker:
                self.hook("child_exit", child.worker)

    def _bury(self, child: Child, end: Exit) -> None:
        """Take a dead child out of the fleet, and write down how it ended."""
        now = self._clock()
        if child.start.kind is SeatKind.STAND_IN:
            self._event_log.stand_in_gone(end, stopping=self._fleet.stop is not None)
            self._tracker.tell(m.StandInGone(now, child.seat))
            return
        if child.start.kind is SeatKind.MOLD:
            self._molds.gone(child, now)
        lost = requests_in_hand(self.board, child.seat)
        self._tracker.buried(child.seat, end, child.read_dump(), now)
        write_access_lines(self.log, lost, monotonic_ns())

    # the end

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End the process with this exit status, whatever fails on the way and whatever the user's on_exit does."""
        try:
            super().halt(reason, exit_status)
        except SystemExit:
            pass  # gunicorn's own, or the hook's
        except BaseException:
            self.log.exception("an error at the end of the server, or in the on_exit hook")
        sys.exit(exit_status)

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Take away what is left; the policy has asked the workers to leave before this."""
        for step in (
            self.close_listeners,
            self._reload.give_up,
            lambda: self._close_monitor(alone=self._is_alone),
            self._children.end,
            self._remove_files,
        ):
            self._survives(step)

    def _remove_files(self) -> None:
        if self._control is not None:
            self._control.close()
        self._run_files.remove()
