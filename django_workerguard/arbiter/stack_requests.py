"""Ask a child for its stacks, while it goes on. Runs in the arbiter.

The child writes them into its file in memory, whenever it can: nothing here waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container

from django_workerguard.arbiter.children import Child, Children
from django_workerguard.arbiter.control_socket import Request
from django_workerguard.arbiter.stack_dump import read_dump
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.scoreboard.layout import Seat, SeatKind, SeatState
from django_workerguard.scoreboard.stack_format import FORCE_AFTER, FORCED_STACKS_SIGNAL, STACKS_SIGNAL
from django_workerguard.values import value_class

KEEP = 10.0  # seconds for which the stacks can be read, before their file is emptied


@value_class
class Asked:
    """A child that was asked for its stacks, and the offset in its file from which on it writes them."""

    child: Child
    offset: int

    def read(self) -> str:
        """Return what it has written by now."""
        return read_dump(self.child.start.dump_fd, self.offset)


class StackRequests:
    """The requests for stacks that are under way."""

    def __init__(self, children: Children, tracker: Tracker, *, clock: Callable[[], float]) -> None:
        self._children = children
        self._tracker = tracker
        self._clock = clock
        self._asked: dict[int, float] = {}  # by pid: when it was asked last
        self._forced: set[int] = set()  # pids of children that were aborted and did not end by it

    def respond(self, request: Request) -> str | None:
        """Ask a process for its stacks, and let the answer have the file into which it writes them; return why not."""
        pid = request.arguments.get("pid")
        seat = self._children.seat_of(pid) if isinstance(pid, int) else None
        forced = request.arguments.get("forced") is True
        asked = "there is no such process" if seat is None else self.ask(seat, forced=forced)
        if isinstance(asked, str):
            return f"pid {pid} cannot be asked for its stacks: {asked}"
        try:
            # a descriptor with which they can only be read
            fd = os.open(f"/proc/self/fd/{asked.child.start.dump_fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return f"the stacks of pid {pid} cannot be handed over: {error.strerror}"
        request.more["offset"] = asked.offset
        request.descriptors.append(fd)
        return None

    def ask(self, seat: int, *, forced: bool = False) -> Asked | str:
        """Ask the child in a seat for its stacks; return why not, if it cannot be asked.

        ``forced``: have code in C write them. For a child that has not answered otherwise within FORCE_AFTER.
        """
        child = self._children.in_seat(seat)
        if child is None:
            return "there is no process"
        if (
            child.start.kind is SeatKind.STAND_IN
        ):  # it loads nothing, so it has no handler, and the signal would end it
            return "it is the stand-in"
        if child.start.dump_fd < 0:
            return "it has no file for them, because no descriptor was free when it started"
        if self._tracker.seats.word(seat, Seat.STATE) == SeatState.NONE:
            return "it is just starting"
        self._asked[child.pid] = self._clock()
        asked = Asked(child, os.fstat(child.start.dump_fd).st_size)
        self._children.signal(seat, FORCED_STACKS_SIGNAL if forced else STACKS_SIGNAL)
        return asked

    def tick(self) -> None:
        """Take care of the children that were aborted, and forget old answers."""
        now = self._clock()
        fleet = self._tracker.fleet
        processes = (*fleet.workers.values(), *fleet.molds.values())
        aborted = {one.pid: (one.seat, one.aborted) for one in processes if one.aborted is not None}
        self._forced &= aborted.keys()
        for pid, (seat, at) in aborted.items():
            if pid not in self._forced and now - at >= FORCE_AFTER:
                self._forced.add(pid)
                self.ask(seat, forced=True)
        self._forget(now, but=aborted)

    def _forget(self, now: float, *, but: Container[int]) -> None:
        """Empty the files whose answers are old, so that the stacks of a later abort or crash stand alone."""
        for pid in [pid for pid, at in self._asked.items() if now - at >= KEEP]:
            del self._asked[pid]
            child = self._children.by_pid(pid)
            if child is not None and pid not in but:
                os.ftruncate(child.start.dump_fd, 0)
