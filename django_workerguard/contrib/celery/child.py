"""A guarded child of Celery's pool: it takes no task before it is loaded and verified. Runs in the child."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from billiard.common import TERM_SIGNAL, _shutdown_cleanup, pickle_loads
from billiard.pool import EX_FAILURE, EX_OK, EX_RECYCLE
from billiard.pool import Worker as BlockingWorker
from celery import signals
from celery.concurrency.asynpool import Worker as AsyncWorker

from django_workerguard.config.arbiter_signals import FOR_ARBITER, ignore_signals
from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Orders, Seat, SeatState
from django_workerguard.worker import load
from django_workerguard.worker.after_fork import offer_to_oom_killer, release_seat_after_fork
from django_workerguard.worker.current import current_worker
from django_workerguard.worker.seat_handle import SeatHandle

FLUSH = 2.0  # seconds that an error reporter gets after a failed load
POLL = 1.0  # seconds between two looks at the orders of an idle child
CONSUMED = 2.0  # seconds that the parent gets to read the results of a child that leaves
# plain numbers, for what every task comes by
IN_FLIGHT, REQUESTS, ORDERS, LEAVE = (
    int(Seat.IN_FLIGHT),
    int(Seat.REQUESTS),
    int(Seat.ORDERS),
    int(Orders.LEAVE),
)
FAILED = 1  # what Celery's tracer returns first for a task that failed


class GuardedChild:
    """What the guard adds to billiard's worker: a verified load, and an order to leave.

    It says that it is up only once all that Celery would have logged and forgotten has gone
    well, and it leaves between two tasks, when nothing that was sent to it is left.
    """

    seat_handle: SeatHandle
    not_ours: tuple[int, ...] = ()  # descriptors of the parent's

    # billiard's, which ships no types
    inq: Any
    on_ready_counter: Any
    _shutdown: Any
    wait_for_job: Callable[[], Any]

    def __reduce__(self) -> Any:
        raise TypeError("a guarded child is forked: worker_pool_start_method must be 'fork'")

    # the load

    def after_fork(self) -> None:
        for fd in self.not_ours:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.seat_handle.board.drop_lock()
        release_seat_after_fork(self.seat_handle)
        offer_to_oom_killer()
        self._seat = self.seat_handle.board.words
        self._base = self.seat_handle.base
        load.dump_stacks(self.seat_handle)
        try:
            load.attempt(self.seat_handle, self._load)
        except BaseException:
            self._stay_or_leave()
            raise SystemExit(ExitCode.LOAD_FAILED) from None
        signal.signal(signal.SIGABRT, signal.SIG_DFL)  # what billiard has set would dump nothing
        self._ignore_signals_to_the_group()
        load.dump_stacks(self.seat_handle)

    def _ignore_signals_to_the_group(self) -> None:
        """Take SIGTERM only from the pool, so that a signal to the whole group costs no task; ignore what is not for a child."""
        before = signal.getsignal(TERM_SIGNAL)

        def terminate(number: int, frame: Any) -> None:
            if not self.seat_handle.has_order(Orders.TERMINATE):
                return
            if callable(before):
                before(number, frame)
            else:
                raise SystemExit(EX_FAILURE)

        signal.signal(TERM_SIGNAL, terminate)
        signal.siginterrupt(TERM_SIGNAL, False)
        ignore_signals(*(number for number in FOR_ARBITER if _is_of_pool(signal.getsignal(number))))

    def _load(self, sentinel: Any, reporter: load.SeatReporter) -> None:
        with sentinel.measure_step("init", reporter, shareable=False):
            with _collected() as failures:
                super().after_fork()  # type: ignore[misc]
            if failures:
                raise _first_of(failures)
        sentinel.load_steps(self.seat_handle.request, reporter)

    def _stay_or_leave(self) -> None:
        if sys.excepthook is not sys.__excepthook__:
            time.sleep(FLUSH)
        while self.seat_handle.state == SeatState.UNLOADED and not self.seat_handle.has_order(Orders.LEAVE):
            time.sleep(POLL)

    def on_loop_start(self, pid: int) -> None:
        while not self.seat_handle.has_order(Orders.ADMIT):  # until it finds itself adopted
            time.sleep(0.002)
        sentinel = import_module(load.SENTINEL)
        sentinel.announce_loaded(current_worker())
        self.seat_handle.stamp(Seat.LOAD_END)
        load.mark_ready(self.seat_handle)
        super().on_loop_start(pid)  # type: ignore[misc]

    # the tasks

    def _make_child_methods(self, *arguments: Any, **more: Any) -> None:
        super()._make_child_methods(*arguments, **more)  # type: ignore[misc]
        self._receive = self.wait_for_job
        self.wait_for_job = self._next_job
        self._incoming = select.poll()  # billiard's own makes one for each look
        self._incoming.register(self.inq._reader.fileno(), select.POLLIN)

    def _next_job(self) -> Any:
        """Return the next job; None if none came for a second. Leaves if it was ordered to."""
        seat, base = self._seat, self._base
        if seat[base + IN_FLIGHT]:
            seat[base + IN_FLIGHT] = 0
            seat[base + REQUESTS] += 1
        # it was adopted before its first job, so the word is meant for it
        leaves = seat[base + ORDERS] & LEAVE
        if leaves and not self._has_jobs_of_its_own():
            self._leave()
        if not self._incoming.poll(0 if leaves else POLL * 1000):
            # not is_set(): it takes a lock that the parent takes too, and this child may be killed with it
            if self._shutdown is not None and self._shutdown._flag.get_value():
                raise SystemExit(EX_OK)
            return None
        job = self._take()
        if job:
            seat[base + IN_FLIGHT] = 1
        return job

    def _has_jobs_of_its_own(self) -> bool:
        """Return whether jobs wait in this child's own pipe. No more will arrive."""
        return bool(self._incoming.poll(0))

    def _take(self) -> Any:
        return self._receive()

    def _leave(self) -> None:
        self.seat_handle.set_state(SeatState.LEAVING)
        import_module(load.SENTINEL).announce_retiring(current_worker())
        sys.exit(EX_RECYCLE)  # billiard's own, which keeps the code

    def _ensure_messages_consumed(self, completed: int) -> bool:
        """Wait until the parent has read every result, but not for ever.

        billiard waits for 30 s, and at a shutdown the parent may read no more: it then waits
        for this child. What is left in the pipe is read once the child is gone.
        """
        deadline = time.monotonic() + CONSUMED
        consumed = self.on_ready_counter.get_obj()  # without its lock, with which a child could be killed
        while time.monotonic() < deadline:
            if consumed.value >= completed:
                return True
            time.sleep(0.01)
        return False

    def prepare_result(self, result: Any) -> Any:
        if isinstance(result, tuple) and result and result[0] == FAILED:
            self._seat[self._base + Seat.ERRORS_5XX] += 1
        return super().prepare_result(result)  # type: ignore[misc]


class GuardedAsyncWorker(GuardedChild, AsyncWorker):
    """A child with a pipe of its own."""


class GuardedBlockingWorker(GuardedChild, BlockingWorker):
    """A child that shares one queue with the others."""

    def _has_jobs_of_its_own(self) -> bool:
        return False

    def _take(self) -> Any:
        try:
            payload = self.inq._reader.recv_bytes_at_once()
        except (EOFError, OSError):
            raise SystemExit(EX_FAILURE) from None
        if payload is None:
            return None
        job = pickle_loads(payload)
        if job is None:  # the end
            raise SystemExit(EX_FAILURE)
        return job


@contextlib.contextmanager
def _collected() -> Iterator[list[BaseException]]:
    """Collect what handlers of ``worker_process_init`` raise, which Celery logs and forgets."""
    failures: list[BaseException] = []
    init = signals.worker_process_init
    send = init.send

    def collect(*arguments: Any, **named: Any) -> Any:
        answers = send(*arguments, **named)
        failures.extend(answer for _, answer in answers if isinstance(answer, BaseException))
        return answers

    init.send = collect
    try:
        yield failures
    finally:
        del init.send


def _is_of_pool(handler: Any) -> bool:
    """Whether a signal's handler is the default or billiard's, and not the project's own."""
    return handler is signal.SIG_DFL or getattr(handler, "__module__", "") == _shutdown_cleanup.__module__


def _first_of(failures: list[BaseException]) -> BaseException:
    first, *others = failures
    for other in others:
        first.add_note(f"Another handler of worker_process_init failed: {type(other).__name__}: {other}")
    return first
