"""The arbiter: observe, plan, apply. Runs in the arbiter.

It holds no decision: what happened becomes a message to the fleet, `plan` says what to
do, and this does it. It survives what it cannot do: a fork that fails, a full disk, no
descriptor, no memory, being suspended.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from django_workerguard.arbiter.control_socket import ControlSocket, WakePipe
from django_workerguard.arbiter.event_log import EventLog
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.run_files import RunFiles
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.errors import CannotListenError, ConfigurationError
from django_workerguard.notify.runner import Notifier
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.plan import next_deadline, plan
from django_workerguard.policy.view import Fleet
from django_workerguard.probe.clock import AwakeClock, monotonic_ns
from django_workerguard.scoreboard.header import Header, Phase
from django_workerguard.scoreboard.layout import Orders
from django_workerguard.scoreboard.places import Opened
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.server.children import Child, Children
from django_workerguard.server.gunicorn_control import be_quiet_about_ended_connections
from django_workerguard.server.listeners import File, close_listeners, socket_files
from django_workerguard.server.pid_file import remove_stale
from django_workerguard.server.sd_notify import ServerStatus, Systemd
from django_workerguard.server.signals import Handlers
from django_workerguard.server.statsd_gauges import Gauges
from django_workerguard.server.workers.mixin import guarded

FAREWELL = 10.0  # seconds that the receivers of the last notice get, once no worker is left
ANSWERING = 0.5  # seconds that gunicorn's control socket gets to answer its client
MOST_TRIES = 10  # of a signal whose handler fails
MOST_BURIALS = 3  # tries to write down how a child ended


def _ended() -> Iterator[tuple[int, int]]:
    """Yield every child that has ended, with its wait status."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


class GuardedArbiter(Handlers, Arbiter):
    """gunicorn's arbiter, its workers managed by the policy."""

    # compared with 8-bit exit codes, so never equal: no worker's exit code halts the server
    WORKER_BOOT_ERROR = 0x103
    APP_LOAD_ERROR = 0x104

    # gunicorn's own, which ships no types
    LISTENERS: list[Any]
    worker_class: type[Any]
    reexec_pid: int
    master_pid: int
    _num_workers: int | None

    def __init__(self, app: Any, opened: Opened, *, handover_fd: int) -> None:
        self.board = opened.board
        self._board_warning = opened.warning
        self._handover_fd = handover_fd
        self._clock = AwakeClock()
        self._systemd = Systemd(os.environ, os.getpid())
        self._notifier = Notifier()
        self._gauges = Gauges()
        super().__init__(app)
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._tracker = Tracker(self.board, self.log, app.policy, target=app.cfg.workers)
        self._run_files = RunFiles(opened, restored=self._event_log.restored, lost=self._event_log.lost)
        self._control: ControlSocket | None = None
        self._socket_files: dict[str, File] = {}  # those that are this arbiter's to remove, by path
        self._failed_signals: list[tuple[int, int]] = []  # number, tries
        self._asked_target: int | None = None  # by gunicorn's control socket
        self._asked_seen = math.inf  # when a tick saw that first
        self._burials: dict[int, int] = {}  # by pid, how often the end of a child could not be written down

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
            self._asked_target = target
        elif before is None:
            self.cfg.nworkers_changed(self, target, before)
        else:
            self._hook("nworkers_changed", target, before)

    # start

    def setup(self, app: Any) -> None:
        try:
            super().setup(app)
        except RuntimeError as error:  # a log file that cannot be opened
            raise app.blame(error) from error
        options = app.guard.options
        if options.log_format == "json":
            import_module("django_workerguard.server.json_log").write_json(self.log)
        self._notifier.configure(options, app.handover, self.log)
        self.worker_class = guarded(self.worker_class)  # type: ignore[arg-type] # a class is hashable

    def start(self) -> None:
        """Start as gunicorn does, but tell systemd READY only once the quorum is loaded."""
        stale = self._remove_stale_pid_file()
        notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
        try:
            super().start()
        except (SystemExit, RuntimeError, ValueError, OSError) as error:
            if self.pidfile is not None:
                self.pidfile.unlink()
            wrong = self._what_is_wrong(error)
            if wrong is None:
                raise
            raise wrong from error
        finally:
            if notify_socket is not None:
                os.environ["NOTIFY_SOCKET"] = notify_socket
        self._socket_files = self._made_socket_files()
        self._wake = WakePipe()
        self._open_control()
        self._nursery = Children(
            self, self._tracker.seats, wake=self._wake, control=self._control, fds=self._own_descriptors
        )
        self.log.info("configuration file: %s", self.app.read.file)
        for line in (*self.app.warnings, self._board_warning, self._systemd.warning, stale):
            if line:
                self.log.warning("%s", line)
        self._introduce()
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

    def _remove_stale_pid_file(self) -> str | None:
        if self.cfg.pidfile is None:
            return None
        successor = ".2" if "GUNICORN_PID" in os.environ else ""
        return remove_stale(self.cfg.pidfile + successor, where=self.app.sources.get("pidfile"))

    @property
    def _addresses(self) -> list[str]:
        return [str(one) for one in self.LISTENERS]

    def _own_descriptors(self) -> Iterator[int]:
        """Yield the descriptors with secrets in them, which no child gets."""
        yield self._handover_fd
        if self._settings_process is not None:
            yield self._settings_process.fd

    def _introduce(self) -> None:
        self._event_log.introduce(self.app, self._addresses, replaces=self.master_pid)

    def _what_is_wrong(self, error: BaseException) -> ConfigurationError | None:
        """Say which setting stopped the start; None where it was an error of a hook's own."""
        if not isinstance(error, SystemExit):
            blamed: ConfigurationError = self.app.blame(error)
            if blamed.option:
                return blamed
        frames = traceback.walk_tb(error.__traceback__)
        if all(frame.f_globals.get("__name__") != "gunicorn.sock" for frame, _ in frames):
            return None
        where = self.app.sources.get("bind", "default")
        addresses = ", ".join(map(str, self.cfg.settings["bind"].get()))
        if not isinstance(error, SystemExit):
            return ConfigurationError(f"cannot listen at {addresses}: {error}", option="bind", where=where)
        hint = "The lines above say why; is another server running there?"
        return CannotListenError(f"cannot listen at {addresses}", option="bind", where=where, hint=hint)

    def _open_control(self) -> None:
        if self.board.path is None:
            return
        allowed = frozenset({0, os.geteuid(), self.cfg.uid})
        try:
            path = self.board.path.with_suffix(".sock")
            self._control = ControlSocket(path, owner=self.cfg.uid, allowed_uids=allowed)
        except OSError as error:
            self.log.warning("no control socket: %s", error.strerror)

    # the loop

    def run(self) -> None:
        """Serve until asked to stop. Ends the process with SystemExit."""
        self.start()
        util._setproctitle(f"master [{self.proc_name}]")
        if not self.cfg.control_socket_disable:
            be_quiet_about_ended_connections()
        self._start_control_server()
        end = self._serve()
        self._event_log.halted(end.reason, end.exit_status)
        self.halt(exit_status=end.exit_status)

    def _serve(self) -> HaltServer:
        try:
            while True:
                self._turn()
        except HaltServer as end:
            return end

    def _turn(self) -> None:
        """Run one round. A step that fails costs a second, and neither the other steps nor a signal."""
        patience = self._patience() if self._tick() else 1.0
        retried, self._failed_signals = self._failed_signals, []
        received: list[int] = []
        self._survives(lambda: received.extend(self.wait_for_signals(patience)))
        for number, tries in (*retried, *((number, 0) for number in received)):
            if not self._survives(self._handle, number) and tries < MOST_TRIES:
                self._failed_signals.append((number, tries + 1))

    def _survives(self, step: Callable[..., Any], *arguments: Any) -> bool:
        """Do something; whatever fails in it that is not asked for is logged and survived.

        SystemExit is how a child leaves; in the arbiter it is a hook of the user's.
        """
        try:
            step(*arguments)
        except HaltServer:
            raise
        except BaseException:
            if os.getpid() != self.pid:
                raise
            with contextlib.suppress(Exception):  # there may be no memory even for this
                self.board.words[Header.ERRORS] += 1
                self.log.exception("the arbiter met an error of its own and goes on")
            return False
        return True

    def _handle(self, number: int) -> None:
        name = self.SIG_NAMES.get(number)
        handler = getattr(self, f"handle_{name}", None)
        if handler is None:
            self.log.error("Unhandled signal: %s", name or number)
            return
        (self.log.debug if number == signal.SIGCHLD else self.log.info)("Handling signal: %s", name)
        handler()

    def _patience(self) -> float:
        """Return the seconds until the next tick is due, if nothing happens before."""
        due: list[float] = []
        now = self._clock()
        self._survives(lambda: due.append(next_deadline(self._tracker.policy, self._fleet, now)))
        return max(0.001, min(1.0, due[0] - now)) if due else 1.0

    def _tick(self) -> bool:
        """Run every step, and say whether all went well. Each is survived for itself: none may stop the healing."""
        now = self._clock()
        steps: tuple[Callable[[], Any], ...] = (
            self._promote,
            self._wake.drain,
            self._serve_requests,
            lambda: self._follow_gunicornc(now),
            self.reap_workers,
            lambda: self._bound_rereading(now),
            lambda: self._tracker.observe(now),
            lambda: self._tracker.measure(now, self.LISTENERS),
            lambda: self._act(now),
            lambda: self._tracker.publish(self._clock(), phase=self._phase()),
            lambda: self._run_files.look(self._control, now),
            lambda: self._tell_systemd(now),
            lambda: self._nursery.kill_strays({*self._fleet.workers, self._fleet.stand_in.seat}),
            self.manage_dirty_arbiter,
            self._send_gauges,
            lambda: self._notifier.tick(lambda: snapshot(self.board), now),
        )
        went_well = [self._survives(step) for step in steps]  # every one of them
        return all(went_well)

    def _act(self, now: float) -> None:
        """Do what the plan says. An action that fails keeps none of the others from being done."""
        for action in plan(self._tracker.policy, self._fleet, now):
            self._survives(self._apply, action, now)

    def _promote(self) -> None:
        before = self.master_pid
        self.maybe_promote_master()
        if before and not self.master_pid:  # the arbiter that was sent SIGUSR2 has ended
            self._systemd.main_pid(self.pid)

    def _follow_gunicornc(self, now: float) -> None:
        """Scale to what gunicorn's own control socket has set, once its client has the answer: a fork ends its connections."""
        if self._asked_target is None:
            return
        self._asked_seen = min(now, self._asked_seen)
        if now - self._asked_seen < ANSWERING:
            return
        target, self._asked_target, self._asked_seen = self._asked_target, None, math.inf
        if target != self._fleet.target and self._scale(target, "gunicorn's control socket"):
            self._num_workers = self._fleet.target  # refused

    def _send_gauges(self) -> None:
        listeners = self.LISTENERS if self.cfg.enable_backlog_metric else None
        self._gauges.send(self.log, workers=len(self.WORKERS), listeners=listeners)

    def _phase(self) -> int:
        if self._fleet.stop is not None:
            return Phase.DRAINING if self._fleet.listening else Phase.STOPPING
        return Phase.SERVING

    def _tell_systemd(self, now: float) -> None:
        fleet = self._fleet
        standing = ServerStatus(
            ready=fleet.ready,
            target=fleet.target,
            reached=bool(self.board.words[Header.REACHED]),
            reloading=self._settings_process is not None
            or (self._event_log.reloading_now and not fleet.frozen),
            stopping=fleet.stop is not None,
            why=self._event_log.last_failure,
            frozen=fleet.frozen,
            successor=self.reexec_pid,
        )
        self._systemd.tell(standing, now, monotonic_us=monotonic_ns() // 1000)

    # actions

    def _apply(self, action: a.Action, now: float) -> None:
        match action:
            case a.Spawn():
                self._spawn(action, now)
            case a.SpawnStandIn():
                self._spawn_stand_in(now)
            case a.Admit(seat):
                self._tracker.seats.order(seat, Orders.ADMIT)
                self._tracker.tell(m.Admitted(seat, now))
            case a.Duty(seat, on):
                self._tracker.seats.order(seat, Orders.DUTY, on=on)
                self._signal(seat, signal.SIGWINCH)
                self._tracker.tell(m.DutySet(seat, on, now))
                self._event_log.duty(self._fleet, seat, on=on)
            case a.Retire(seat, _, quick):
                self._signal(seat, signal.SIGQUIT if quick else signal.SIGTERM)
                self._tracker.retired(action, now)
            case a.Abort(seat):
                self._signal(seat, signal.SIGABRT)
                self._tracker.aborted(action, now)
            case a.Kill(seat):
                self._signal(seat, signal.SIGKILL)
                self._tracker.killed(action, now)
            case a.CloseListeners():
                self._close_listeners()
                self._tracker.tell(m.ListenersClosed(now))
            case a.GiveUp(code, reason):
                self._tracker.tell(m.StopAsked(now, exit_code=code, reason=reason))
                self._event_log.gave_up(reason)
                self._notifier.give_up(snapshot(self.board), reason)
            case a.Halt(code, reason):
                self._notifier.finish(FAREWELL)
                raise HaltServer(str(reason or ""), int(code))

    def _signal(self, seat: int, number: int) -> None:
        pid = self._tracker.seats.pids.get(seat)
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return  # its exit is on the way
            except PermissionError as error:
                self.log.error("cannot signal pid %s: %s", pid, error.strerror)

    def _close_listeners(self) -> None:
        listeners, self.LISTENERS = self.LISTENERS, []
        alone = self.reexec_pid == self.master_pid == 0  # else another arbiter listens there
        close_listeners(listeners, self._socket_files if alone else {})

    # children

    def _spawn(self, action: a.Spawn, now: float) -> None:
        seat = self._nursery.worker(action.slot, action.generation, stay=action.stay)
        if seat is None:
            self._tracker.not_spawned(action.slot, self._nursery.refusal, now)
        else:
            self._tracker.spawned(action, seat, now)

    def _spawn_stand_in(self, now: float) -> None:
        seat = self._nursery.stand_in()
        if seat is None:
            self._tracker.tell(m.StandInGone(now))
            self._event_log.not_spawned(0, self._nursery.refusal, self._fleet)
        else:
            self._tracker.tell(m.StandInSpawned(seat, self._tracker.seats.pids[seat], now))

    def reap_workers(self) -> None:
        """Collect every dead child by its role; nobody else's status is taken from anybody."""
        for pid, status in _ended():
            if pid == self.reexec_pid:
                self.reexec_pid = 0
            elif self._settings_process is not None and pid == self._settings_process.pid:
                self._reread()
            elif self._notifier.ended(pid, status):
                continue
            elif pid == self.dirty_arbiter_pid:
                self.handle_dirty_arbiter_exit(pid, status)
            else:
                self._nursery.ended(pid, status)
        dead = self._nursery.dead()
        if dead:
            self._tracker.observe(self._clock())  # what a process said that died between two ticks
        for child, status in dead:
            if not self._survives(self._bury, child, Exit.of(status)) and not self._gave_up_burial(child):
                continue
            self._burials.pop(child.pid, None)
            self._nursery.forget(child)
            if not child.stand_in:
                self._hook("child_exit", child.worker)

    def _gave_up_burial(self, child: Child) -> bool:
        """Say whether a dead child whose end could not be written down is out of the fleet all the same.

        It is tried again at the next ticks, because there may have been no memory; then the slot's healing comes first.
        """
        tries = self._burials[child.pid] = self._burials.get(child.pid, 0) + 1
        if tries < MOST_BURIALS:
            return False
        self._tracker.tell(m.Exited(child.seat, self._clock()))
        return True

    def _bury(self, child: Child, end: Exit) -> None:
        """Take a dead child out of the fleet, and write down how it ended."""
        now = self._clock()
        if child.stand_in:
            self._tracker.tell(m.StandInGone(now))
            self._event_log.stand_in_gone(end, stopping=self._fleet.stop is not None)
            return
        self.WORKERS.pop(child.pid, None)
        self._tracker.buried(child.seat, end, child.read_dump(), now)

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
        for step in (self._close_listeners, self._end_rereading, self._nursery.end, self._remove_files):
            self._survives(step)

    def _end_rereading(self) -> None:
        if self._settings_process is not None:
            self._settings_process.give_up()

    def _remove_files(self) -> None:
        if self._control is not None:
            self._control.close()
        self._run_files.remove()
