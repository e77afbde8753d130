"""The table of an arbiter's children: each has a seat and a place for its stacks from before its start until it is buried.

Whatever makes the processes, gunicorn's fork or Celery's pool, is given as a `Fork`. Runs in the arbiter.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from django_workerguard.arbiter.event_log import EventLog
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.final_kill import kill_and_collect
from django_workerguard.arbiter.main_thread import signal_main_thread
from django_workerguard.arbiter.seats import Seats
from django_workerguard.arbiter.stack_dump import open_dump, read_dump
from django_workerguard.scoreboard.layout import Orders, SeatKind
from django_workerguard.values import value_class
from django_workerguard.worker.seat_handle import SeatHandle


@value_class
class Start:
    """What a new child is: its seat, its slot (0: not a worker's), its generation, and where it dumps its stacks."""

    kind: SeatKind
    seat: int
    slot: int
    generation: int
    dump_fd: int


@value_class
class Child:
    """A child that was started. ``worker``: what the server calls it by, if it has an object for it."""

    pid: int
    start: Start
    worker: Any = None

    @property
    def seat(self) -> int:
        return self.start.seat

    @property
    def is_worker(self) -> bool:
        return self.start.kind is SeatKind.WORKER

    def read_dump(self) -> str:
        """Return the stacks that the process has dumped."""
        return read_dump(self.start.dump_fd)


class CannotStartError(Exception):
    """No process could be started; the message says why."""


class MoldUnreachableError(CannotStartError):
    """No message reaches the mold, because it is ending."""


@contextlib.contextmanager
def cannot_start() -> Iterator[None]:
    """Raise whatever fails in the block as CannotStartError."""
    try:
        yield
    except CannotStartError:
        raise
    except Exception as error:
        raise CannotStartError(str(error) or type(error).__name__) from error


class Fork(Protocol):
    """How a server makes a process in a seat. ``orders``: what each child may do from its start."""

    orders: Orders

    def handle(self, start: Start) -> SeatHandle:
        """Return what ties the process to its seat."""

    def fork(self, start: Start, handle: SeatHandle, others: Iterable[int]) -> tuple[int, Any]:
        """Make the process, and return its pid and the server's object for it. Raises what keeps it from being made.

        ``others``: descriptors of other children, which it closes.
        """


class MoldFork(Protocol):
    """How a server gets a worker from a mold."""

    def ask(self, mold: int, start: Start) -> Any:
        """Ask the mold in a seat for a worker, and return the server's object for it.

        Raises MoldUnreachableError, or what else keeps it from being asked.
        """

    def convert(self, start: Start) -> Any:
        """Have a mold become a worker, and return the server's object for it. Raises as `ask`."""

    def arrived(self, pid: int, worker: Any) -> None:
        """Take note of a worker that a mold has forked, or has become."""


class Children:
    """Every child that has a seat, by pid, and those that a mold was asked for."""

    def __init__(
        self, seats: Seats, fork: Fork, event_log: EventLog, *, mold_fork: MoldFork | None = None
    ) -> None:
        """``mold_fork``: for a server that has molds."""
        self._seats = seats
        self._fork = fork
        self._mold_fork: Any = mold_fork
        self._event_log = event_log
        self._children: dict[int, Child] = {}
        self._dead: dict[int, tuple[Child, Exit]] = {}
        # by seat, with its mold's seat and the server's object
        self._asked: dict[int, tuple[Start, int, Any]] = {}
        # by pid: how processes ended that were not known, while some are asked for
        self._early: dict[int, Exit] = {}
        self._killed: set[int] = set()  # the pids of strays

    def reserve(self, kind: SeatKind, slot: int, generation: int, orders: Orders) -> Start:
        """Reserve what a child needs. Raises CannotStartError if there is no free seat."""
        seat = self._seats.take(kind, slot=slot, generation=generation, orders=orders | self._fork.orders)
        if seat is None:
            raise CannotStartError("no seat is free")
        return Start(kind, seat, slot, generation, open_dump())

    def start(self, start: Start) -> Child:
        """Start a child. Raises CannotStartError; its seat is free again then."""
        pid = 0
        try:
            with cannot_start():
                pid, worker = self._fork.fork(start, self._fork.handle(start), self._dumps(but=start))
                child = self._children[pid] = Child(pid, start, worker)
        except CannotStartError:
            if pid:  # without a place in the table it would wait for its admission for ever
                os.kill(pid, signal.SIGKILL)
            self._give_back(start)
            raise
        self._seats.adopt(start.seat, pid)
        return child

    # workers that a mold forks

    def ask(self, mold: int, start: Start) -> None:
        """Ask the mold in a seat for a worker. Raises CannotStartError; the worker's seat is free again then."""
        try:
            with cannot_start():
                self._asked[start.seat] = (start, mold, self._mold_fork.ask(mold, start))
        except CannotStartError:
            self._give_back(start)
            raise

    def arrived(self, seat: int, pid: int) -> Child:
        """Take in the worker that a mold has forked for a seat. Raises CannotStartError if it is not a new child."""
        start, _, worker = self._asked[seat]
        if pid in self._children or not (pid in self._early or _is_child(pid)):
            raise CannotStartError(f"the mold named pid {pid}, which is not a new child of the arbiter")
        del self._asked[seat]
        child = self._children[pid] = Child(pid, start, worker)
        self._mold_fork.arrived(pid, worker)
        self._seats.adopt(seat, pid)
        if pid in self._early:  # it has ended before its mold could name it
            self.ended(pid, self._early.pop(pid))
        self._forget_early()
        return child

    def did_not_arrive(self, seat: int) -> None:
        """Give back the seat of a worker that its mold could not fork."""
        start, _, _ = self._asked.pop(seat)
        self._give_back(start)
        self._forget_early()

    def asked_of(self, mold: int) -> list[Start]:
        """Return the workers that the mold in a seat was asked for and that are not there yet."""
        return [start for start, of, _ in self._asked.values() if of == mold]

    def asked_molds(self) -> set[int]:
        """Return the seats of the molds that were asked for workers which are not there yet."""
        return {mold for _, mold, _ in self._asked.values()}

    def convert(self, seat: int, slot: int) -> None:
        """Turn the mold in a seat into the worker of a slot. Raises CannotStartError: it stays a mold then."""
        pid = self._seats.pids[seat]
        start = replace(self._children[pid].start, kind=SeatKind.WORKER, slot=slot)
        with cannot_start():
            worker = self._mold_fork.convert(start)
        self._children[pid] = Child(pid, start, worker)
        self._mold_fork.arrived(pid, worker)
        self._seats.convert(seat, slot)

    def _forget_early(self) -> None:
        if not self._asked:
            self._early.clear()

    def _give_back(self, start: Start) -> None:
        self._seats.free(start.seat)
        if start.dump_fd >= 0:
            os.close(start.dump_fd)

    def by_pid(self, pid: int) -> Child | None:
        """Return a child that has not ended."""
        return self._children.get(pid)

    def in_seat(self, seat: int) -> Child | None:
        """Return the child in a seat that has not ended."""
        return self._children.get(self._seats.pids.get(seat, 0))

    def seat_of(self, pid: int) -> int | None:
        """Return the seat of a child that has not ended; None if there is no such child."""
        child = self._children.get(pid)
        return None if child is None else child.seat

    def ended(self, pid: int, end: Exit) -> None:
        """Note that a child has ended. One that is not known may be a worker that its mold has not named yet."""
        child = self._children.get(pid)
        if child is not None:
            self._dead[pid] = (child, end)
            del self._children[pid]
        elif self._asked:
            self._early[pid] = end

    def dead(self) -> list[tuple[Child, Exit]]:
        """Return the children that have ended and are not buried yet, with how each ended."""
        return list(self._dead.values())

    def forget(self, child: Child) -> None:
        """Give back what a dead child had."""
        del self._dead[child.pid]
        self._give_back(child.start)

    def _dumps(self, *, but: Start) -> Iterator[int]:
        """Yield the descriptors of the other children's stacks."""
        starts = [child.start for child in self._children.values()]
        starts += [start for start, _, _ in self._asked.values()]
        for start in starts:
            if start.dump_fd not in (-1, but.dump_fd):
                yield start.dump_fd

    def signal(self, seat: int, number: int) -> None:
        """Send a signal to the child in a seat. Nothing happens if it has ended: its burial is on the way."""
        if pid := self._seats.pids.get(seat):
            self._send(signal_main_thread, pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to every child."""
        for pid in self._children:
            self._send(os.kill, pid, number)

    def kill_strays(self, known: Container[int | None]) -> None:
        """Kill, once each, children in seats that the fleet does not know: their start was broken off after the fork."""
        strays = {pid for pid, child in self._children.items() if child.seat not in known}
        for pid in strays - self._killed:
            self._send(os.kill, pid, signal.SIGKILL)
        self._killed = strays

    def _send(self, send: Callable[[int, int], None], pid: int, number: int) -> None:
        """Send a signal to a child, unless it has ended or is another user's."""
        try:
            send(pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            self._event_log.signal_denied(pid, error)

    def end(self) -> None:
        """Kill and collect every child that is left, unless the kernel does not end it."""
        kill_and_collect(self._children)


def _is_child(pid: int) -> bool:
    """Return whether a process is a child of this one; its status stays to be collected."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (OSError, OverflowError):  # ChildProcessError, or no pid at all
        return False
    return True
