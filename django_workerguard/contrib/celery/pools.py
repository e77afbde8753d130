"""billiard's pools, guarded: the one for transports with an event loop, and the blocking one. Runs in Celery's main process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from billiard.pool import RUN, LaxBoundedSemaphore, PoolThread
from billiard.pool import Pool as BlockingPool
from billiard.pool import TimeoutHandler as BlockingTimeouts
from celery.concurrency.asynpool import AsynPool
from celery.utils.log import get_logger
from celery.worker import state as worker_state

from django_workerguard.contrib.celery.child import GuardedAsyncWorker, GuardedBlockingWorker
from django_workerguard.contrib.celery.packet_queue import PacketQueue
from django_workerguard.contrib.celery.pool_arbiter import PoolArbiter
from django_workerguard.contrib.celery.sent_jobs import SentJobs
from django_workerguard.errors import ExitCode
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.worker.seat_handle import SeatHandle

TICK = 0.5  # seconds
TIME_LIMIT = Reason(Rule.TIME_LIMIT, "its task ran longer than Celery's time limit")
REVOKED = Reason(Rule.REVOKED, "its task was revoked")

logger = get_logger("celery.workerguard")


class ChildSupervisor(PoolThread):
    """Looks after the children of the blocking pool, in billiard's place: often, and without its burst at the start.

    It makes them, and the kernel kills them when it ends: Celery asks for that with PR_SET_PDEATHSIG,
    which applies to a thread. So this thread lives as long as the process, and is not waited for.
    """

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        super().__init__()

    def body(self) -> None:
        while self._state == RUN and self.pool._state == RUN:
            self.pool._maintain_pool()
            time.sleep(TICK)
        threading.Event().wait()

    def stop(self, timeout: float | None = None) -> None:
        """Wait for nothing."""


class Timeouts(BlockingTimeouts):
    """Marks a child that Celery ends for a time limit, so that it is not taken for a crash."""

    def _trywaitkill(self, worker: Any) -> None:
        worker.ended_for = TIME_LIMIT
        worker.let_end(worker.pid)
        super()._trywaitkill(worker)


def let_be_ended(process: Any, let_end: Callable[[int], None]) -> None:
    """Have a child take the SIGTERM of each `terminate` that Celery and billiard call, whatever for."""
    terminate = process.terminate

    def end() -> None:
        let_end(process.pid)
        terminate()

    process.let_end, process.terminate = let_end, end


class GuardedPool:
    """What the guard changes in billiard's pool: when children are made, and which of them get tasks."""

    TimeoutHandler = Timeouts
    arbiter: PoolArbiter
    Child: type[Any]

    # billiard's, which ships no types
    _pool: list[Any]
    _processes: int
    _putlock: Any
    _state: int

    def __init__(self, *arguments: Any, arbiter: PoolArbiter, **options: Any) -> None:
        self.arbiter = arbiter
        self._next: tuple[SeatHandle, tuple[int, ...]] | None = None
        super().__init__(*arguments, **options)

    @property
    def target(self) -> int:
        """Return the configured number of children."""
        return self._processes

    # children are made when the policy says so, never because one is missing

    def Worker(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802 - billiard's name
        """Make the child's part of a process that `fork_child` makes."""
        worker = self.Child(*arguments, **options)
        if self._next is not None:
            worker.seat_handle, worker.not_ours = self._next
        return worker

    def _create_worker_process(self, i: int) -> Any:
        return super()._create_worker_process(i) if self._next is not None else None  # type: ignore[misc]

    def fork_child(self, index: int, handle: SeatHandle, not_ours: tuple[int, ...]) -> int:
        """Make a child in a place and return its pid. Raises OSError and MemoryError, and leaves no trace then."""
        before = list(self._pool)
        self._next = (handle, not_ours)
        try:
            process = self._create_worker_process(index)
            let_be_ended(process, self.arbiter.let_end)
            pid: int = process.pid
        except BaseException:
            for process in self._pool:
                if process not in before:
                    self._forget(process)
            self._pool[:] = before
            raise
        finally:
            self._next = None
        return pid

    def _forget(self, process: Any) -> None:
        """Give back what a process that could not be started had been given."""

    def _repopulate_pool(self, exitcodes: Any) -> None:
        """Leave it to the policy."""

    def _maintain_pool(self) -> None:
        joined = self._join_exited_workers()
        self.arbiter.tick(self)
        for _ in joined:
            if self._putlock is not None:
                self._putlock.release()

    def _join_exited_workers(self, shutdown: bool = False) -> list[int]:  # noqa: FBT001, FBT002 - billiard's signature
        before = list(self._pool)
        for process in before:
            if process.exitcode == ExitCode.LOAD_FAILED:
                process._controlled_termination = True  # the guard reports it
        try:
            joined: list[int] = super()._join_exited_workers(shutdown=shutdown)  # type: ignore[misc]
        finally:
            for process in before:
                if process not in self._pool:
                    self.arbiter.gone(process.pid, process.exitcode, _why(process))
        return joined

    # which children get tasks

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """End the task of a child, which ``revoke(terminate=True)`` asks for, and the child with it."""
        self.arbiter.let_end(pid)
        super().terminate_job(pid, sig)  # type: ignore[misc]

    def feed_no_more(self, pid: int) -> None:
        """Send no more jobs to a child; it still does the ones that it has."""

    def shrink(self, n: int = 1) -> None:
        """Lower the target: children above it leave between two tasks. Raises ValueError where none would be left."""
        if self._processes - n < 1:
            raise ValueError("Can't shrink pool: it would be empty")
        for _ in range(n):
            self._processes -= 1
            if self._putlock:
                self._putlock.shrink()

    def grow(self, n: int = 1) -> None:
        """Raise the target as far as there are seats."""
        room = self.arbiter.board.layout.slots - self._processes
        if n > room:
            logger.warning(
                "The pool grows by %d, not %d: there are seats for %d", room, n, self._processes + room
            )
        super().grow(min(n, room))  # type: ignore[misc]


class GuardedAsynPool(GuardedPool, AsynPool):
    """The pool of transports with an event loop: a pipe for every child."""

    Child = GuardedAsyncWorker
    on_process_up: Callable[[Any], None]  # the event loop's, set when it registers
    _looking = False

    @property
    def timers(self) -> dict[Any, float]:
        return {self.look_around: TICK}

    def look_around(self) -> None:
        """Say that the main thread goes on, and look after the children."""
        self.arbiter.pulse()
        if self._looking or self._state != RUN:
            return
        self._looking = True  # its own flush waits in between
        try:
            self.maintain_pool()
        finally:
            self._looking = False

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        up = self.on_process_up

        def on_process_up(process: Any) -> None:
            up(process)
            self._waiting_to_start.discard(process)  # load-timeout bounds it, not a few seconds for ever

        self.on_process_up = on_process_up
        self.look_around()  # the first children

    def on_process_alive(self, pid: int) -> None:
        super().on_process_alive(pid)
        if pid in self._fed_no_more:
            self.feed_no_more(pid)

    def feed_no_more(self, pid: int) -> None:
        self._fed_no_more.add(pid)
        for process in self._pool:
            if process.pid == pid:
                self._all_inqueues.discard(process.inqW_fd)
                self._busy_workers.discard(process.inqW_fd)

    @property
    def _fed_no_more(self) -> set[int]:
        pids: set[int] = self.__dict__.setdefault("_leaving", set())
        pids.intersection_update(process.pid for process in self._pool)
        return pids

    def _forget(self, process: Any) -> None:
        self._process_cleanup_queues(process)


class PatientSemaphore(LaxBoundedSemaphore):
    """billiard's semaphore, with a call between two waits: Celery's main thread waits here until a child takes a task.

    Without a child it would not notice a SIGTERM.
    """

    def __init__(self, value: int, between: Callable[[], None]) -> None:
        super().__init__(value)
        self._between = between

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 - threading's signature
        if not blocking or timeout is not None:
            return bool(super().acquire(blocking, timeout))
        while not super().acquire(timeout=TICK):
            if threading.current_thread() is threading.main_thread():
                self._between()
        return True


class GuardedBlockingPool(GuardedPool, BlockingPool):
    """The pool of transports without one: all children share two queues, and a thread looks after them."""

    Supervisor = ChildSupervisor
    Child = GuardedBlockingWorker
    _last_death = -math.inf  # seconds, monotonic

    def __init__(self, processes: int, *arguments: Any, arbiter: PoolArbiter, **options: Any) -> None:
        def between() -> None:
            arbiter.pulse()
            worker_state.maybe_shutdown()  # raises; the message is not acknowledged, and comes again

        options["semaphore"] = PatientSemaphore(processes, between)
        super().__init__(processes, *arguments, arbiter=arbiter, **options)

    def look_around(self) -> None:
        """Say that the main thread goes on."""
        self.arbiter.pulse()

    def _setup_queues(self) -> None:
        self._inqueue, self._outqueue = PacketQueue(), PacketQueue()
        self._sent = SentJobs()
        self._quick_get = self._outqueue.get

    def _quick_put(self, message: Any) -> None:
        self._inqueue.put(message)
        if message is not None:  # the end
            _, (job, *_) = message
            self._sent.sent(job, message, time.monotonic())

    def _poll_result(self, timeout: float) -> tuple[bool, Any]:
        return (True, self._quick_get()) if self._outqueue._reader.poll(timeout) else (False, None)

    @staticmethod
    def _help_stuff_finish(inqueue: PacketQueue, task_handler: threading.Thread, _: Any) -> None:
        """Make room in the queue for the thread that sends jobs, so that it can end. Children may read too."""
        while task_handler.is_alive() and inqueue._reader.recv_bytes_at_once() is not None:
            pass

    def _join_exited_workers(self, shutdown: bool = False) -> list[int]:  # noqa: FBT001, FBT002 - billiard's signature
        joined = super()._join_exited_workers(shutdown=shutdown)
        now = time.monotonic()
        if joined:
            self._last_death = now
        self._mark_lost_jobs()
        # an acceptance may wait until the thread that reads them returns from a callback
        if self._state == RUN and self._outqueue.empty():
            for message in self._sent.lost(
                self._is_accepted, self._inqueue.empty, died=self._last_death, now=now
            ):
                self._taskqueue.put(([message], None))
        return joined

    def _is_accepted(self, job: int) -> bool:
        result = self._cache.get(job)
        return result is None or bool(result._accepted)

    def _mark_lost_jobs(self) -> None:
        """Mark the jobs of children that were gone before their acceptance was read: billiard looks only when one goes."""
        pids = {process.pid for process in self._pool}
        for job in list(self._cache.values()):
            gone = [pid for pid in job.worker_pids() if pid not in pids]
            if gone and not job.ready() and not job._worker_lost:
                self.on_job_process_lost(job, gone[0], 0)


def _why(process: Any) -> Reason | None:
    """Return the reason of its own for which Celery has ended a child; None if it has not."""
    if getattr(process, "_job_terminated", False):
        return REVOKED
    reason: Reason | None = getattr(process, "ended_for", None)
    return reason
