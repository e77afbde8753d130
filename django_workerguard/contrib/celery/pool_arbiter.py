"""The arbiter of a pool of tasks: observe, plan, apply. Runs in Celery's main process.

It holds no decision. Celery's pool makes the children and gives them tasks. This applies the plan: it has a child made,
and asks it to leave by an order in its seat.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from billiard.pool import EX_RECYCLE
from celery.worker import state as worker_state

from django_workerguard.arbiter.apply import Applier
from django_workerguard.arbiter.burial import Burial
from django_workerguard.arbiter.children import Child, Children, Start
from django_workerguard.arbiter.control_socket import Request, open_beside
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.run_files import RunFiles
from django_workerguard.arbiter.stack_requests import StackRequests
from django_workerguard.arbiter.steps import act, run_steps
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.project_path import here
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy, State
from django_workerguard.probe import cgroup
from django_workerguard.probe.clock import AwakeClock, monotonic_ns
from django_workerguard.report.findings import with_findings
from django_workerguard.scoreboard.header import Header, Phase, ServerKind
from django_workerguard.scoreboard.layout import MAX_SEATS, Layout, Orders, Seat
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
        load="lazy",
        load_concurrency=options.load_concurrency or cgroup.cpus(),
        stand_in=False,
        answers=False,
        worker_reload_mercy=options.worker_reload_mercy or math.inf,
        timeout=0.0,
        surge=0,
        away=max(1, options.surge),
        reload_on_rss=options.reload_on_rss or rss_limit,
        reload_on_memory_error=False,
        memory_margin=0,  # Celery decides when a child starts
        outlier="off",
        outlier_latency="off",
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
    """The arbiter of one pool. Celery makes the children and ends its worker."""

    orders = Orders.ADMIT  # a child that is up takes tasks

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
        self._children = Children(self._tracker.seats, self, self._tracker.event_log)
        self._stack_requests = StackRequests(self._children, self._tracker, clock=self._clock)
        self._applier = Applier(self._tracker, self._children, self)
        self._burial = Burial(
            self._tracker, self._children, bury=self._bury, survives=self._survives, clock=self._clock
        )
        self._reasons: dict[int, Reason | None] = {}  # by pid: Celery's own reason for an end
        self._pool: Any = None  # Celery's, from its first tick
        self._lock = threading.RLock()  # the blocking pool looks after its children in a thread
        self._pid = os.getpid()
        self._pulse = monotonic_ns()
        self._stopping = False
        self._closed = False
        self._run_files = RunFiles(
            opened, restored=self._tracker.event_log.restored, lost=self._tracker.event_log.lost
        )
        if opened.warning:
            log.warning("%s", opened.warning)
        self._control = open_beside(self.board.path, owner=os.geteuid(), log=log, ring=False)
        self._tracker.event_log.introduce(
            name=server_name(options.name or node, Path(here())),
            project=here(),
            bind=[node],
            worker_class="celery prefork",
        )
        self._tracker.event_log.started(self._pid, [node], processes)
        self._tracker.publish(self._clock(), phase=Phase.STARTING)

    # time

    def pulse(self) -> None:
        """Note a sign of life of the main thread, which the probe `live` reports."""
        self._pulse = monotonic_ns()

    def tick(self, pool: Any) -> None:
        """Look at the children, decide, and do it. An error in it costs one tick."""
        with self._lock:
            self._pool = pool
            self._tick()

    def _survives(self, step: Callable[..., Any], *arguments: Any) -> bool:
        """Run a step. An error in it is logged; return whether there was none."""
        try:
            step(*arguments)
        except Exception:
            self._tracker.event_log.own_error()
            return False
        return True

    def _tick(self) -> None:
        now, tracker = self._clock(), self._tracker
        steps: tuple[Callable[[], Any], ...] = (
            lambda: tracker.serve(self._control, self._respond, now),
            self._stack_requests.tick,
            lambda: self._follow_target(now),
            lambda: tracker.observe(now),
            lambda: tracker.measure(now),
            self._bury_dead,  # what could not be written down before
            self._act,
            self._publish,
            lambda: self._run_files.restore_missing(self._control, now),
        )
        run_steps(self._survives, steps)

    def _follow_target(self, now: float) -> None:
        if self._pool.target != self._tracker.fleet.target:
            self._tracker.tell(m.TargetChanged(self._pool.target))
            self._tracker.event_log.scaled(self._pool.target, "Celery", now)

    def _act(self) -> None:
        if not self._stopping and self._tracker.fleet.stop is None:
            act(self._survives, self._tracker, self._applier, self._clock())

    def _publish(self) -> None:
        phase = Phase.STOPPING if self._stopping or self._tracker.fleet.stop else Phase.SERVING
        self._tracker.publish(self._clock(), phase=phase, beat=self._pulse)

    # what the actions need

    def ask_to_leave(self, seat: int, *, quick: bool) -> None:
        """Feed a child no more, and have it leave between two tasks: no signal may disturb a task."""
        self._pool.feed_no_more(self._tracker.seats.pids[seat])
        self._tracker.seats.order(seat, Orders.LEAVE)

    def reload_again(self) -> None:
        """Do nothing: a pool has no reload."""

    def close_listeners(self) -> None:
        """Do nothing: a pool has no listeners."""

    def give_up(self, code: int, reason: Reason) -> None:
        worker_state.should_stop = code

    def end(self, code: int, reason: Reason | None) -> None:
        """Do nothing: Celery ends its worker by itself."""

    # how a child is made

    def handle(self, start: Start) -> SeatHandle:
        return SeatHandle(
            board=self.board,
            seat=start.seat,
            slot=start.slot,
            generation=start.generation,
            wake_fd=-1,
            dump_fd=start.dump_fd,
            request=self._request,
            options=self.options,
        )

    def fork(self, start: Start, handle: SeatHandle, others: Iterable[int]) -> tuple[int, None]:
        control = () if self._control is None else (self._control.fileno(),)
        not_its = (*control, *self._run_files.descriptors(), *others)
        pid: int = self._pool.fork_child(start.slot - 1, handle, not_its)
        return pid, None

    # what has happened

    def gone(self, pid: int, exit_code: int | None, why: Reason | None) -> None:
        """Take a child that has ended out of the fleet. ``why``: for what reason of Celery's own, if it was one."""
        with self._lock:
            if self._children.seat_of(pid) is not None:
                self._reasons[pid] = why
            self._children.ended(pid, Exit.of_process(exit_code))
            self._bury_dead()

    def _bury_dead(self) -> None:
        for child in self._burial.run():
            self._reasons.pop(child.pid, None)

    def _bury(self, child: Child, end: Exit) -> None:
        """Take a child that has ended out of the fleet, and write down how it ended."""
        now, tracker = self._clock(), self._tracker
        reason = self._reasons.get(child.pid)
        if end.code == EX_RECYCLE:
            reason = reason or LIMIT_REACHED
        worker = tracker.fleet.workers.get(child.seat)
        if worker is not None and worker.state is State.READY and reason is not None:
            tracker.retired(a.Retire(child.seat, reason), now)
        tracker.buried(child.seat, end, child.read_dump(), now)

    # what is asked

    def _respond(self, request: Request) -> str | None:
        match request.do:
            case "wake":
                return None
            case "recycle":
                return self.recycle(request.arguments, request.who)
            case "stacks":
                return self._stack_requests.respond(request)
            case _:
                return f"a Celery pool supports recycle and stacks, not {request.do}: restart the Celery worker, or use Celery's own commands"

    def recycle(self, which: dict[str, Any], asked_by: str) -> str | None:
        """Have the child of a slot, or of every slot, replaced; return why it is refused, or None."""
        with self._lock:
            return self._tracker.recycle(which, asked_by)

    def report(self) -> dict[str, Any]:
        """Return the pool as ``workerguard status --json`` shows it."""
        return with_findings(snapshot(self.board))

    # the end

    def stopping(self) -> None:
        """Note that Celery closes its pool: no child is started any more."""
        with self._lock:
            if not self._stopping:
                self._stopping = True
                log_it = partial(self._tracker.event_log.stopping, quick=False, drain_delay=0.0)
                run_steps(self._survives, (log_it, self._publish))

    def publish_while_closing(self) -> None:
        """Publish the state while the pool is being closed."""
        with self._lock:
            self.pulse()
            now = self._clock()
            steps: tuple[Callable[[], Any], ...] = (
                lambda: self._tracker.observe(now),
                lambda: self._tracker.measure(now),
                self._publish,
                lambda: self._run_files.restore_missing(self._control, now),
            )
            run_steps(self._survives, steps)

    def let_end(self, pid: int) -> None:
        """Have a child take the SIGTERM that Celery is about to send it."""
        with self._lock:
            seat = self._children.seat_of(pid)
            if seat is not None:
                self._tracker.seats.order(seat, Orders.TERMINATE)

    def busy(self, pid: int) -> bool:
        """Return whether a child has a task."""
        seat = self._children.seat_of(pid)
        return seat is not None and bool(self._tracker.seats.word(seat, Seat.IN_FLIGHT))

    def loading(self, pid: int) -> bool:
        """Return whether a child is not ready yet."""
        seat = self._children.seat_of(pid)
        worker = None if seat is None else self._tracker.fleet.workers.get(seat)
        return worker is not None and worker.ready_at is None

    def close(self, code: int = 0) -> None:
        """Remove the board; only in the process that made it."""
        with self._lock:
            if os.getpid() != self._pid or self._closed:
                return
            self._closed = True
            fleet = self._tracker.fleet
            reason, code = (str(fleet.stop.reason or ""), fleet.stop.exit_code) if fleet.stop else ("", code)
            self._tracker.event_log.halted(reason, code, fleet)
            if self._control is not None:
                self._control.close()
                self._control = None
            self._run_files.remove()
