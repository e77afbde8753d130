"""The arbiter of a pool of tasks: observe, plan, apply, in Celery's main process. Runs there.

It holds no decision. Celery's pool makes the children and hands them tasks; this says when one
is to be made, asks it to leave by a word in its seat, and tells what has become of it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from billiard.pool import EX_RECYCLE
from celery.worker import state as worker_state

from django_workerguard.arbiter.control_socket import ControlSocket
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.run_files import RunFiles
from django_workerguard.arbiter.stack_dump import open_dump, read_dump
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.project_path import here
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.plan import plan
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy, State
from django_workerguard.probe import cgroup
from django_workerguard.probe.clock import AwakeClock, monotonic_ns
from django_workerguard.report.findings import with_findings
from django_workerguard.scoreboard.header import Header, Phase, ServerKind
from django_workerguard.scoreboard.layout import MAX_SEATS, Layout, Orders, Seat, SeatKind
from django_workerguard.scoreboard.places import Opened, open_board, server_name
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.package_sources import keep_sources
from django_workerguard.worker.seat_handle import SeatHandle

LIMIT_REACHED = Reason(Rule.MAX_TASKS_PER_CHILD, "it reached Celery's limit of tasks or memory")
SLOTS = 64  # at least, so that an autoscaler finds seats


def policy_of(options: GuardOptions, *, rss_limit: int = 0) -> Policy:
    """Return the policy of a pool, which cannot surge: the child that is replaced goes first."""
    return Policy.of(
        options,
        load_concurrency=options.load_concurrency or cgroup.cpus(),
        stand_in=False,
        answers=False,
        worker_reload_mercy=options.worker_reload_mercy or math.inf,
        timeout=0.0,
        surge=0,
        away=max(1, options.surge),
        reload_on_rss=options.reload_on_rss or rss_limit,
        reload_on_memory_error=False,
        outlier="off",
    )


def open_pool_board(options: GuardOptions, node: str, *, processes: int) -> Opened:
    """Make the board of this worker. Raises ConfigurationError where the run directory cannot be used."""
    slots = min(MAX_SEATS, max(SLOTS, 2 * processes))
    opened = open_board(
        Layout(seats=slots, slots=slots),
        server_name(options.name or node, Path(here())),
        options.run_dir,
        environ=os.environ,
        uid=os.geteuid(),
        pid=os.getpid(),
    )
    opened.board.words[Header.KIND] = ServerKind.POOL
    return opened


class PoolArbiter:
    """The guard of one pool."""

    def __init__(
        self,
        options: GuardOptions,
        opened: Opened,
        log: Any,
        *,
        node: str,
        processes: int,
        rss_limit: int = 0,
    ) -> None:
        self.options = options
        self.board = opened.board
        self._log = log
        self._clock = AwakeClock()
        self._tracker = Tracker(self.board, log, policy_of(options, rss_limit=rss_limit), target=processes)
        self._request = LoadRequest(
            warmup=options.warmup,
            load_probe=options.load_probe,
            release=options.release,
            urlconf=options.urlconf,
        )
        keep_sources()
        self._children: dict[int, tuple[int, int]] = {}  # by pid: the seat and where it dumps its stacks
        self._lock = threading.RLock()  # the blocking pool looks after its children in a thread
        self._pid = os.getpid()
        self._pulse = monotonic_ns()
        self._stopping = False
        self._closed = False
        self._control: ControlSocket | None = None
        self._run_files = RunFiles(
            opened, restored=self._tracker.event_log.restored, lost=self._tracker.event_log.lost
        )
        if opened.warning:
            log.warning("%s", opened.warning)
        self._open_control()
        self.board.write_about(
            {
                "host": socket.gethostname(),
                "name": server_name(options.name or node, Path(here())),
                "project": here(),
                "bind": [node],
                "worker_class": "celery prefork",
            }
        )
        self._tracker.event_log.started(self._pid, [node], processes)
        self._tracker.publish(self._clock(), phase=Phase.STARTING)

    def _open_control(self) -> None:
        if self.board.path is None:
            return
        allowed = frozenset({0, os.geteuid()})
        try:
            self._control = ControlSocket(
                self.board.path.with_suffix(".sock"), owner=os.geteuid(), allowed_uids=allowed, ring=False
            )
        except OSError as error:
            self._log.warning("no control socket: %s", error.strerror)

    # time

    def pulse(self) -> None:
        """Say that the main thread goes on: what `live` asks after."""
        self._pulse = monotonic_ns()

    def tick(self, pool: Any) -> None:
        """Look at the children, decide, and do it. What fails in it costs a tick, and nobody."""
        with self._lock:
            try:
                self._tick(pool)
            except Exception:
                self.board.words[Header.ERRORS] += 1
                self._log.exception("the guard met an error of its own and goes on")

    def _tick(self, pool: Any) -> None:
        now = self._clock()
        tracker = self._tracker
        self._serve_requests()
        if pool.target != tracker.fleet.target:
            tracker.tell(m.TargetChanged(pool.target))
            tracker.event_log.scaled(pool.target, "Celery")
        tracker.observe(now)
        tracker.measure(now)
        if not self._stopping and tracker.fleet.stop is None:
            for action in plan(tracker.policy, tracker.fleet, now):
                self._apply(pool, action, now)
        self._publish()

    def _publish(self) -> None:
        phase = Phase.STOPPING if self._stopping or self._tracker.fleet.stop else Phase.SERVING
        self._tracker.publish(self._clock(), phase=phase, beat=self._pulse)
        self._run_files.look(self._control, self._clock())

    # actions

    def _apply(self, pool: Any, action: a.Action, now: float) -> None:
        tracker = self._tracker
        match action:
            case a.Spawn():
                self._spawn(pool, action, now)
            case a.Admit(seat):
                tracker.seats.order(seat, Orders.ADMIT)
                tracker.tell(m.Admitted(seat, now))
            case a.Retire(seat):
                pool.feed_no_more(tracker.seats.pids[seat])
                tracker.seats.order(seat, Orders.LEAVE)
                tracker.retired(action, now)
            case a.Abort(seat):
                self._signal(seat, signal.SIGABRT)
                tracker.aborted(action, now)
            case a.Kill(seat):
                self._signal(seat, signal.SIGKILL)
                tracker.killed(action, now)
            case a.GiveUp(code, reason):
                tracker.tell(m.StopAsked(now, exit_code=code, reason=reason))
                tracker.event_log.gave_up(reason)
                worker_state.should_stop = int(code)

    def _signal(self, seat: int, number: int) -> None:
        pid = self._tracker.seats.pids.get(seat)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _spawn(self, pool: Any, action: a.Spawn, now: float) -> None:
        seats = self._tracker.seats
        orders = Orders.ADMIT | (Orders.STAY if action.stay else Orders.NONE)
        seat = seats.take(SeatKind.WORKER, slot=action.slot, generation=action.generation, orders=orders)
        if seat is None:
            self._tracker.not_spawned(action.slot, "no seat is free", now)
            return
        dump_fd = open_dump()
        handle = SeatHandle(
            board=self.board,
            seat=seat,
            slot=action.slot,
            generation=action.generation,
            wake_fd=-1,
            dump_fd=dump_fd,
            request=self._request,
            options=self.options,
        )
        try:
            pid = pool.fork_child(action.slot - 1, handle, self._not_for_children())
        except (OSError, MemoryError) as error:
            seats.free(seat)
            if dump_fd >= 0:
                os.close(dump_fd)
            self._tracker.not_spawned(action.slot, str(error) or type(error).__name__, now)
            return
        self._children[pid] = (seat, dump_fd)
        seats.adopt(seat, pid)
        self._tracker.spawned(action, seat, now)

    def _not_for_children(self) -> tuple[int, ...]:
        control = () if self._control is None else (self._control.fileno(),)
        return (*control, *(dump for _, dump in self._children.values() if dump >= 0))

    # what has happened

    def gone(self, pid: int, exit_code: int | None, why: Reason | None) -> None:
        """Take a child that has ended out of the fleet. ``why``: for what reason of Celery's own, if it was one."""
        with self._lock:
            seat, dump_fd = self._children.pop(pid, (-1, -1))
            if seat < 0:
                return
            now = self._clock()
            tracker = self._tracker
            tracker.observe(now)  # its last words
            worker = tracker.fleet.workers.get(seat)
            if exit_code == EX_RECYCLE:
                why = why or LIMIT_REACHED
            if worker is not None and worker.state is State.READY and why is not None:
                tracker.retired(a.Retire(seat, why), now)
            code = -1 if exit_code is None else exit_code
            end = Exit(code, None) if code >= 0 else Exit(None, -code)
            tracker.buried(seat, end, read_dump(dump_fd), now)
            tracker.seats.free(seat)
            if dump_fd >= 0:
                os.close(dump_fd)

    # what is asked

    def _serve_requests(self) -> None:
        if self._control is None:
            return
        for request in self._control.requests():
            refused = request.refused
            if refused is None and request.do == "recycle":
                refused = self.recycle(request.arguments, request.who)
            elif refused is None and request.do != "wake":
                refused = (
                    f"a pool of Celery's knows recycle, not {request.do}: restart its worker, or ask Celery"
                )
            self._tracker.event_log.asked(request, refused, self._clock())
            self._control.answer(request, refused)

    def recycle(self, which: dict[str, Any], asked_by: str) -> str | None:
        """Have the child of a slot, or of every slot, replaced; return why not."""
        with self._lock:
            return self._tracker.recycle(which, asked_by)

    def report(self) -> dict[str, Any]:
        """Return the pool as ``workerguard status --json`` shows it."""
        return with_findings(snapshot(self.board))

    # the end

    def stopping(self) -> None:
        """Take note that Celery closes its pool: nobody comes any more."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._tracker.event_log.stopping(quick=False, drain_delay=0.0)
                self._publish()

    def look_on(self) -> None:
        """Go on telling how it stands while the pool is closed."""
        with self._lock:
            self.pulse()
            now = self._clock()
            self._tracker.observe(now)
            self._tracker.measure(now)
            self._publish()

    def let_end(self, pid: int) -> None:
        """Have a child take the SIGTERM that Celery is about to send it."""
        with self._lock:
            seat, _ = self._children.get(pid, (-1, -1))
            if seat >= 0:
                self._tracker.seats.order(seat, Orders.TERMINATE)

    def busy(self, pid: int) -> bool:
        """Say whether a child has a task in hand."""
        seat, _ = self._children.get(pid, (-1, -1))
        return seat >= 0 and bool(self._tracker.seats.word(seat, Seat.IN_FLIGHT))

    def loading(self, pid: int) -> bool:
        """Say whether a child is not ready yet."""
        seat, _ = self._children.get(pid, (-1, -1))
        worker = self._tracker.fleet.workers.get(seat)
        return worker is not None and worker.ready_at is None

    def close(self, code: int = 0) -> None:
        """Take the board away; only in the process that made it."""
        with self._lock:
            if os.getpid() != self._pid or self._closed:
                return
            self._closed = True
            stop = self._tracker.fleet.stop
            self._tracker.event_log.halted(
                str(stop.reason or "") if stop else "", int(stop.exit_code) if stop else code
            )
            if self._control is not None:
                self._control.close()
                self._control = None
            self._run_files.remove()
