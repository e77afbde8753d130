"""Make children and keep their table: seat, fork, register, by role. Runs in the arbiter; `_live` in the child."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gunicorn import util

from django_workerguard.arbiter.control_socket import ControlSocket, WakePipe
from django_workerguard.arbiter.exits import exit_code_of
from django_workerguard.arbiter.seats import Seats
from django_workerguard.arbiter.stack_dump import open_dump, read_dump
from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Orders, SeatKind, SeatState
from django_workerguard.server.workers.mixin import is_asgi
from django_workerguard.server.workers.stand_in import StandIn, without_hooks
from django_workerguard.worker.after_fork import release_arbiter, signals_blocked
from django_workerguard.worker.load import record_failure
from django_workerguard.worker.seat_handle import SeatHandle
from django_workerguard.worker.shutdown import limit_threads


@dataclass(frozen=True)
class Child:
    """A process of ours: its role and what belongs to it."""

    pid: int
    seat: int
    worker: Any  # gunicorn's worker object
    dump_fd: int
    stand_in: bool = False

    def read_dump(self) -> str:
        """Return the stacks that the process has dumped."""
        return read_dump(self.dump_fd)


class Children:
    """Where children come from."""

    def __init__(
        self,
        arbiter: Any,
        seats: Seats,
        *,
        wake: WakePipe,
        control: ControlSocket | None,
        fds: Callable[[], Iterable[int]],
    ) -> None:
        self._arbiter = arbiter
        self._seats = seats
        self._wake = wake
        self._control = control
        self._fds = fds
        self._children: dict[int, Child] = {}  # by pid
        self._dead: dict[int, tuple[Child, int]] = {}
        self.refusal = ""  # why the last child could not be made

    def worker(self, slot: int, generation: int, *, stay: bool) -> int | None:
        """Start a worker and return its seat; None, and `refusal`, where there can be none."""
        orders = Orders.STAY if stay else Orders.NONE
        return self._start(SeatKind.WORKER, slot, generation, orders)

    def stand_in(self) -> int | None:
        """Start the stand-in and return its seat; None, and `refusal`, where there can be none."""
        return self._start(SeatKind.STAND_IN, 0, 0, Orders.NONE)

    def ended(self, pid: int, status: int) -> None:
        """Note that a child has ended; nothing where it is none of ours."""
        child = self._children.get(pid)
        if child is not None:
            self._dead[pid] = (child, status)
            del self._children[pid]

    def dead(self) -> list[tuple[Child, int]]:
        """Return the children that have ended and are not forgotten yet, with their wait statuses."""
        return list(self._dead.values())

    def forget(self, child: Child) -> None:
        """Give back what a dead child had."""
        del self._dead[child.pid]
        self._seats.free(child.seat)
        if child.dump_fd >= 0:
            os.close(child.dump_fd)

    def signal(self, number: int) -> None:
        """Send a signal to every child."""
        for pid in self._children:
            os.kill(pid, number)

    def kill_strays(self, known: Container[int | None]) -> None:
        """Kill children in seats that the fleet does not know: their start was broken off after the fork."""
        for child in self._children.values():
            if child.seat not in known:
                os.kill(child.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill and collect whatever is left."""
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _start(self, kind: SeatKind, slot: int, generation: int, orders: Orders) -> int | None:
        seat = self._seats.take(kind, slot=slot, generation=generation, orders=orders)
        if seat is None:
            self.refusal = "no seat is free"
            return None
        dump_fd = open_dump()
        try:
            child = self._fork(seat, slot, generation, dump_fd, stand_in=kind is SeatKind.STAND_IN)
        except Exception as error:
            self._seats.free(seat)
            if dump_fd >= 0:
                os.close(dump_fd)
            self.refusal = str(error)
            return None
        self._seats.adopt(seat, child.pid)
        if not child.stand_in:
            self._arbiter.WORKERS[child.pid] = child.worker
        return seat

    def _fork(self, seat: int, slot: int, generation: int, dump_fd: int, *, stand_in: bool) -> Child:
        """Make the record, run the hook, fork. The child never comes back from here."""
        arbiter = self._arbiter
        arbiter.worker_age += 1
        make = StandIn if stand_in else arbiter.worker_class
        worker = make(
            arbiter.worker_age,
            arbiter.pid,
            arbiter.LISTENERS,
            arbiter.app,
            arbiter.timeout / 2.0,
            arbiter.cfg,
            arbiter.log,
        )
        handle = self._handle(seat, slot, generation, dump_fd)
        worker.take(handle)
        if not stand_in:
            try:
                arbiter.cfg.pre_fork(arbiter, worker)
            except SystemExit as error:  # this is the arbiter: it is the worker that is not to be
                raise RuntimeError(f"the pre_fork hook raised SystemExit({error.code!r})") from error
        with signals_blocked():
            pid = os.fork()
            if pid == 0:
                _never_back(release_arbiter, self._not_for_children(dump_fd))
                _never_back(arbiter.board.leave_lock)
        if pid == 0:
            _never_back(_live, arbiter, worker, handle, stand_in=stand_in)
        try:
            worker.pid = pid
            child = self._children[pid] = Child(pid, seat, worker, dump_fd, stand_in=stand_in)
        except MemoryError:  # a child that is not in the table would wait for its admission for ever
            os.kill(pid, signal.SIGKILL)
            raise
        return child

    def _not_for_children(self, own_dump: int) -> Iterator[int]:
        yield self._wake.read_fd
        yield from self._fds()
        if self._control is not None:
            yield self._control.surrender()
        yield from (child.dump_fd for child in self._children.values() if child.dump_fd not in (-1, own_dump))

    def _handle(self, seat: int, slot: int, generation: int, dump_fd: int) -> SeatHandle:
        app = self._arbiter.app
        return SeatHandle(
            board=self._arbiter.board,
            seat=seat,
            slot=slot,
            generation=generation,
            wake_fd=self._wake.write_fd,
            dump_fd=dump_fd,
            options=app.guard.options,
            request=app.load_request(asgi=is_asgi(self._arbiter.worker_class)),
        )


def _never_back(step: Callable[..., None], *arguments: Any, **more: Any) -> None:
    """Run a step of a child; whatever it raises but SystemExit ends the process: there is one arbiter."""
    try:
        step(*arguments, **more)
    except SystemExit:
        raise
    except BaseException:
        os._exit(ExitCode.UNEXPECTED)


def _live(arbiter: Any, worker: Any, handle: SeatHandle, *, stand_in: bool) -> None:
    """Be a child, from the fork to the exit. Raises SystemExit at the end, always."""
    worker.pid = os.getpid()
    worker.server = arbiter
    cfg = arbiter.cfg
    if stand_in:
        without_hooks(cfg)
    try:
        util._setproctitle(f"{'stand-in' if stand_in else 'worker'} [{arbiter.proc_name}]")
        if not stand_in:
            cfg.post_fork(arbiter, worker)
        worker.init_process()
    except SystemExit:
        raise
    except BaseException as error:
        if handle.state in (SeatState.NONE, SeatState.LOADING, SeatState.LOADED):
            record_failure(handle, error)
        else:
            arbiter.log.exception("Exception in worker process")
        raise SystemExit(exit_code_of(error)) from None
    finally:
        try:
            cfg.worker_exit(arbiter, worker)
        except Exception:
            arbiter.log.warning("Exception during worker exit:\n%s", traceback.format_exc())
        limit_threads(arbiter.log, handle)
    raise SystemExit(0)
