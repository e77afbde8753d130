"""The arbiter: observe, plan, apply. Runs in the arbiter.

It holds no decision: what happened becomes a message to the fleet, `plan` says what to
do, and this does it. It survives what it cannot do: a fork that fails, a full disk, no
descriptor, no memory, being suspended.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from gunicorn import systemd, util
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from django_workerguard.errors import ConfigurationError
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.fold import fold
from django_workerguard.policy.plan import next_deadline, plan
from django_workerguard.policy.view import Fleet, Policy
from django_workerguard.probe.clock import AwakeClock
from django_workerguard.scoreboard.header import Header, Phase
from django_workerguard.scoreboard.layout import Kind, Orders
from django_workerguard.scoreboard.places import Opened
from django_workerguard.server import spawning
from django_workerguard.server.control import ControlSocket, Request, WakePipe
from django_workerguard.server.exits import Exit
from django_workerguard.server.guard import Guard
from django_workerguard.server.chronicle import Chronicle
from django_workerguard.server.publish import Publisher
from django_workerguard.server.seats import Seats
from django_workerguard.server.spawning import Child
from django_workerguard.server.standin import StandIn, without_hooks
from django_workerguard.server.worker import guarded, is_asgi


class GuardedArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, its workers managed by the policy."""

    # compared with 8-bit exit codes, so never equal: no worker's exit code halts the server
    WORKER_BOOT_ERROR = 0x103
    APP_LOAD_ERROR = 0x104

    def __init__(self, app: Any, policy: Policy, opened: Opened, *, handover_fd: int) -> None:
        self.policy = policy
        self.board = opened.board
        self._board_warning = opened.warning
        self._handover_fd = handover_fd
        self._clock = AwakeClock()
        self._seats = Seats(self.board)
        self._publisher = Publisher(self.board, self._seats)
        self._children: dict[int, Child] = {}  # by pid
        self._notify_socket: str | None = None
        self._fleet = Fleet(target=app.cfg.workers)
        super().__init__(app)
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._chronicle = Chronicle(self.board, self.log)
        self._control: ControlSocket | None = None

    # start

    def setup(self, app: Any) -> None:
        super().setup(app)
        self.worker_class = guarded(self.worker_class)

    def start(self) -> None:
        """Start as gunicorn does, but tell systemd READY only once the quorum is loaded."""
        self._notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
        try:
            super().start()
        except SystemExit as error:
            where = self.app.sources.get("bind", "default")
            raise ConfigurationError(
                f"cannot listen at {', '.join(map(str, self.cfg.settings['bind'].get()))}",
                option="bind",
                where=where,
                hint="The lines above say why; is another server running there?",
            ) from error
        finally:
            if self._notify_socket is not None:
                os.environ["NOTIFY_SOCKET"] = self._notify_socket
        signal.signal(signal.SIGIO, self._rung)
        self._wake = WakePipe()
        self._open_control()
        for line in (*self.app.warnings, self._board_warning):
            if line:
                self.log.warning("%s", line)
        self._chronicle.started(self.app, self.pid, [str(one) for one in self.LISTENERS], replaces=self.master_pid)

    def _open_control(self) -> None:
        if self.board.path is None:
            return
        allowed = frozenset({0, os.geteuid(), self.cfg.uid})
        try:
            self._control = ControlSocket(self.board.path.with_suffix(".sock"), allowed_uids=allowed)
        except OSError as error:
            self.log.warning("no control socket: %s", error.strerror)

    # the loop

    def run(self) -> None:
        """Serve until asked to stop. Ends the process with SystemExit."""
        self.start()
        util._setproctitle(f"master [{self.proc_name}]")
        try:
            self._start_control_server()
            while True:
                self._turn()
        except HaltServer as halt:
            self._chronicle.halted(halt.reason, halt.exit_status)
            self.halt(exit_status=halt.exit_status)

    def _turn(self) -> None:
        """Run one round; whatever fails in it that is not asked for is logged and survived."""
        try:
            self.maybe_promote_master()
            self._tick()
            for number in self.wait_for_signals(self._patience()):
                self._handle(number)
            self.manage_dirty_arbiter()
        except (HaltServer, SystemExit):
            raise
        except BaseException:
            self.board.words[Header.ERRORS] += 1
            self.log.exception("the arbiter met an error of its own and goes on")

    def _handle(self, number: int) -> None:
        name = self.SIG_NAMES.get(number)
        handler = getattr(self, f"handle_{name}", None)
        if handler is None:
            self.log.error("Unhandled signal: %s", name or number)
            return
        (self.log.debug if number == signal.SIGCHLD else self.log.info)("Handling signal: %s", name)
        handler()

    def _patience(self) -> float:
        now = self._clock()
        return max(0.001, min(1.0, next_deadline(self.policy, self._fleet, now) - now))

    def _tick(self) -> None:
        self._wake.drain()
        self._serve_requests()
        self.reap_workers()
        now = self._clock()
        before = self._fleet
        self._tell(m.Observed(self._seats.readings(), now))
        self._chronicle.compare(before, self._fleet, self._seats)
        for action in plan(self.policy, self._fleet, now):
            self._apply(action, now)
        self._publisher.publish(self._fleet, self._clock(), phase=self._phase(), quorum=self.policy.min_loaded)
        self._tell_systemd()

    def _tell(self, message: m.Message) -> None:
        self._fleet = fold(self.policy, self._fleet, message)

    def _phase(self) -> int:
        if self._fleet.stop is not None:
            return Phase.DRAINING if self._fleet.listening else Phase.STOPPING
        return Phase.SERVING

    def _tell_systemd(self) -> None:
        if self._notify_socket is not None and self.board.words[Header.REACHED]:
            self._notify_socket = None
            systemd.sd_notify(f"READY=1\nSTATUS={self._fleet.ready} workers ready", self.log)

    # actions

    def _apply(self, action: a.Action, now: float) -> None:
        match action:
            case a.Spawn():
                self._spawn(action, now)
            case a.SpawnStandIn():
                self._spawn_stand_in(now)
            case a.Admit(seat):
                self._seats.order(seat, Orders.ADMIT)
                self._tell(m.Admitted(seat, now))
            case a.Duty(seat, on):
                self._seats.order(seat, Orders.DUTY, on=on)
                self._signal(seat, signal.SIGWINCH)
                self._tell(m.DutySet(seat, on, now))
                self._chronicle.duty(self._fleet, seat, on=on)
            case a.Retire(seat, reason, quick):
                self._signal(seat, signal.SIGQUIT if quick else signal.SIGTERM)
                self._tell(m.Asked(seat, reason, now, quick))
                self._chronicle.retired(self._fleet.workers.get(seat), reason)
            case a.Abort(seat, reason):
                self._signal(seat, signal.SIGABRT)
                self._tell(m.Aborted(seat, reason, now))
                self._chronicle.aborted(self._fleet.workers.get(seat), reason)
            case a.Kill(seat, reason):
                self._signal(seat, signal.SIGKILL)
                self._chronicle.killed(self._fleet.workers.get(seat), reason)
            case a.CloseListeners():
                self._close_listeners()
                self._tell(m.ListenersClosed(now))
            case a.GiveUp(code, reason):
                self._tell(m.StopAsked(now, exit_code=code, reason=reason))
                self._chronicle.gave_up(reason)
            case a.Halt(code, reason):
                raise HaltServer(reason, int(code))

    def _signal(self, seat: int, number: int) -> None:
        pid = self._seats.pids.get(seat)
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return  # its exit is on the way
            except PermissionError as error:
                self.log.error("cannot signal pid %s: %s", pid, error.strerror)

    def _close_listeners(self) -> None:
        from gunicorn import sock

        ours = self.reexec_pid == self.master_pid == 0 and not self.systemd
        sock.close_sockets(self.LISTENERS, ours)
        self.LISTENERS = []

    # children

    def _spawn(self, action: a.Spawn, now: float) -> None:
        orders = Orders.STAY if action.stay else Orders.NONE
        seat = self._seats.take(Kind.WORKER, slot=action.slot, generation=action.generation, orders=orders)
        if seat is None:
            self._tell(m.SpawnFailed(action.slot, now))
            self._chronicle.not_spawned(action.slot, "no seat is free", self._fleet)
            return
        pid = self._fork(seat, action.slot, action.generation)
        if pid is None:
            self._tell(m.SpawnFailed(action.slot, now))
            return
        self._tell(m.Spawned(action.slot, seat, pid, action.load_timeout, now))
        self._chronicle.spawned(self._fleet.workers[seat])

    def _spawn_stand_in(self, now: float) -> None:
        seat = self._seats.take(Kind.STAND_IN, slot=0, generation=0, orders=Orders.NONE)
        pid = self._fork(seat, 0, 0, stand_in=True) if seat is not None else None
        if seat is None or pid is None:
            self._tell(m.StandInGone(now))
        else:
            self._tell(m.StandInSpawned(seat, pid, now))

    def _fork(self, seat: int, slot: int, generation: int, *, stand_in: bool = False) -> int | None:
        dump_fd = spawning.open_dump()
        try:
            self.worker_age += 1
            make = StandIn if stand_in else self.worker_class
            worker = make(
                self.worker_age, self.pid, self.LISTENERS, self.app, self.timeout / 2.0, self.cfg, self.log
            )
            guard = self._guard(seat, slot, generation, dump_fd)
            worker.take(guard)
            if not stand_in:
                self.cfg.pre_fork(self, worker)
            name = f"{'stand-in' if stand_in else 'worker'} [{self.proc_name}]"

            def live() -> None:
                if stand_in:
                    without_hooks(self.cfg)
                spawning.live(self, worker, guard, close=self._arbiter_fds(dump_fd), name=name, hooks=not stand_in)

            pid = spawning.fork(live)
        except Exception as error:
            self._seats.free(seat)
            if dump_fd >= 0:
                os.close(dump_fd)
            self._chronicle.not_spawned(slot, str(error), self._fleet)
            return None
        worker.pid = pid
        self._seats.adopt(seat, pid)
        self._children[pid] = Child(pid, seat, worker, dump_fd, stand_in=stand_in)
        if not stand_in:
            self.WORKERS[pid] = worker
        self._stats["workers_spawned"] += 1
        return pid

    def _arbiter_fds(self, own_dump: int) -> Iterator[int]:
        """Yield what a child closes. Runs in the child."""
        yield self._wake.read_fd
        yield self._handover_fd
        if self._control is not None:
            yield self._control.surrender()
        yield from (c.dump_fd for c in self._children.values() if c.dump_fd not in (-1, own_dump))

    def _guard(self, seat: int, slot: int, generation: int, dump_fd: int) -> Guard:
        options = self.app.guard.options
        return Guard(
            board=self.board,
            seat=seat,
            slot=slot,
            generation=generation,
            wake_fd=self._wake.write_fd,
            dump_fd=dump_fd,
            health_path=options.health_path,
            health_token=options.health_token,
            request=self.app.load_request(asgi=is_asgi(self.worker_class)),
        )

    def reap_workers(self) -> None:
        """Collect every dead child by its role; nobody else's status is taken from anybody."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.reexec_pid:
                self.reexec_pid = 0
            elif pid == self.dirty_arbiter_pid:
                self.handle_dirty_arbiter_exit(pid, status)
            elif pid in self._children:
                self._buried(self._children.pop(pid), Exit.of(status))

    def _buried(self, child: Child, end: Exit) -> None:
        now = self._clock()
        # the last words of a process that died between two ticks
        self._tell(m.Observed(self._seats.readings(), now))
        dump = spawning.take_dump(child)
        if child.stand_in:
            self._tell(m.StandInGone(now))
            self._chronicle.stand_in_gone(end, stopping=self._fleet.stop is not None)
        else:
            self.WORKERS.pop(child.pid, None)
            gone = self._fleet.workers[child.seat]
            transient = self._chronicle.exited(gone, end, dump, self._seats)
            self._tell(m.Exited(child.seat, now, clean=end.clean, transient=transient))
            self._publisher.fold(gone.slot, child.seat)
            self._chronicle.next_try(self._fleet, gone, now)
        self._seats.free(child.seat)
        if not child.stand_in:
            self._child_exit(child)

    def _child_exit(self, child: Child) -> None:
        try:
            self.cfg.child_exit(self, child.worker)
        except Exception:
            self.log.exception("Exception in child_exit hook")

    # signals and requests

    def _rung(self, number: int, frame: Any) -> None:
        self.wakeup()

    def handle_chld(self) -> None:
        """Children are reaped at every tick."""
        self.reap_dirty_arbiter()

    handle_cld = handle_chld

    def handle_hup(self) -> None:
        """Start a new generation: every worker is replaced by one with the code as it is now."""
        self._new_generation("SIGHUP")

    def _new_generation(self, asked_by: str) -> None:
        self._tell(m.GenerationStarted(self._clock()))
        self._chronicle.reloading(self._fleet.generation, asked_by)
        self.cfg.on_reload(self)

    def handle_term(self) -> None:
        self._stop(quick=False)

    def handle_int(self) -> None:
        self._stop(quick=True)

    handle_quit = handle_int

    def _stop(self, *, quick: bool) -> None:
        again = self._fleet.stop is not None
        if again and not quick:
            return
        self._tell(m.StopAsked(self._clock(), quick or again))
        self._chronicle.stopping(quick=quick, drain_delay=self.policy.drain_delay)

    def handle_ttin(self) -> None:
        self._scale(self._fleet.target + 1, "SIGTTIN")

    def handle_ttou(self) -> None:
        self._scale(self._fleet.target - 1, "SIGTTOU")

    def _scale(self, target: int, asked_by: str) -> str | None:
        """Change the target; return why not."""
        if not 1 <= target <= self.board.layout.slots:
            refused = f"the target stays {self._fleet.target}: it can be 1 to {self.board.layout.slots}"
            self.log.warning("%s (%s)", refused, asked_by)
            return refused
        self._tell(m.TargetChanged(target))
        self.num_workers = target
        self._chronicle.scaled(target, asked_by)
        return None

    def handle_usr1(self) -> None:
        """Reopen the log files, here and in every worker, each readable for the workers' user first."""
        self.log.reopen_files()
        self._chown_logs()
        for pid in list(self.WORKERS):
            os.kill(pid, signal.SIGUSR1)
        if self.dirty_arbiter_pid:
            self.kill_dirty_arbiter(signal.SIGUSR1)

    def _chown_logs(self) -> None:
        if os.geteuid() != 0 or self.cfg.uid == 0:
            return
        for setting in ("errorlog", "accesslog"):
            path = self.cfg.settings[setting].get()
            if path and path != "-" and os.path.exists(path):
                os.chown(path, self.cfg.uid, self.cfg.gid)

    def handle_usr2(self) -> None:
        try:
            self.reexec()
        except OSError as error:
            self.log.error("USR2: no second arbiter: %s", error.strerror)

    def _serve_requests(self) -> None:
        if self._control is None:
            return
        for request in self._control.requests():
            refused = self._asked(request)
            self._control.answer(request, refused)
            self._chronicle.asked(request, refused)

    def _asked(self, request: Request) -> str | None:
        """Do what was asked; return why not."""
        match request.do:
            case "wake":
                return None
            case "reload":
                self._new_generation(f"pid {request.pid}, user {request.uid}")
                return None
            case "scale":
                target = request.arguments.get("target")
                return self._scale(target if isinstance(target, int) else 0, f"user {request.uid}")
            case "recycle":
                slot = request.arguments.get("slot")
                if not isinstance(slot, int) or not 1 <= slot <= self._fleet.target:
                    return f"there is no slot {slot}: the slots are 1 to {self._fleet.target}"
                self._tell(m.RecycleAsked(slot, f"recycle by user {request.uid}"))
                return None
            case _:
                return f"{request.do!r} is not known"

    # the end

    def stop(self, graceful: bool = True) -> None:
        """Take away what is left; the policy has asked the workers to leave before this."""
        self._close_listeners()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self._children):
            os.waitpid(pid, 0)
        self._remove_files()

    def _remove_files(self) -> None:
        if self._control is not None:
            self._control.close()
        if self.board.path is not None:
            self.board.path.unlink(missing_ok=True)

