"""The tracker: keeps the fleet up to date, and writes changes to the board, the journal and the log. Runs in the arbiter.

It holds no decision. `plan` decides, the arbiter acts, and reports to the tracker what it has done.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from django_workerguard.arbiter.control_socket import ControlSocket, Request
from django_workerguard.arbiter.event_log import EventLog
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.publisher import Publisher
from django_workerguard.arbiter.seats import Seats
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.backoff import seed_of
from django_workerguard.policy.fold import fold
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Fleet, Policy, Retry, State, Worker
from django_workerguard.probe.headroom import HeadroomReader
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import bounds_of
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Cause

MEASURE_EVERY = 1.0  # seconds
TIME_EVERY = 10.0  # seconds
NOT_DONE = "an error in the server: see its log"
STEP = 1 << 20  # bytes, in which the memory that is left is counted


class Tracker:
    """The fleet of one board."""

    def __init__(self, board: Board, log: Any, policy: Policy, *, target: int) -> None:
        self.board = board
        words = board.words
        self._seed = seed_of(socket.gethostname(), words[Header.STARTED_AT], words[Header.PID])
        self.follow(policy)
        self.fleet = Fleet(target=target)
        self.seats = Seats(board)
        self.event_log = EventLog(board, log, pids=self.seats.pids.values)
        self._publisher = Publisher(board, self.seats)
        self._headroom = HeadroomReader()
        self.memory_limits: tuple[int, ...] = ()  # bytes, of every level of the cgroups
        self._measured = 0.0
        self._timed = 0.0
        self._folded: dict[int, Worker] = {}  # by pid: processes that are gone, with what they had counted

    def follow(self, policy: Policy) -> None:
        """Decide by these options from now on."""
        self.policy = replace(policy, seed=self._seed)

    def tell(self, message: m.Message) -> None:
        self.fleet = fold(self.policy, self.fleet, message)

    def observe(self, now: float) -> None:
        """Read the states that the workers have written into their seats, and log what has changed."""
        before = self.fleet
        self.tell(m.Observed(self.seats.readings(self.policy), now))
        for failure in self.event_log.compare(before, self.fleet, self.seats, now):
            self.tell(m.LoadFailed(failure))

    def measure(self, now: float, listeners: Iterable[Any] = ()) -> None:
        """Measure memory and backlog every MEASURE_EVERY seconds, and at once if a worker has just become ready."""
        if self.policy.memory_margin or self.policy.auto_workers:
            self._weigh()
            self._look_for_room()
        fresh = any(
            worker.ready_at is not None and not worker.rss_at_first for worker in self.fleet.workers.values()
        )
        if now - self._measured < MEASURE_EVERY and not fresh:
            return
        self._measured = now
        backlog = _backlog(listeners)
        self.tell(m.Measured(self.seats.measure(), now, backlog))
        if now - self._timed >= TIME_EVERY:
            self._timed = now
            self.tell(m.Timed(self.seats.durations(), tuple(bounds_of(self.board)), now))
        self.event_log.look_for_kills(now)
        words = self.board.words
        self._look_for_room()
        words[Header.BACKLOG] = 0 if backlog is None else backlog + 1

    def _weigh(self) -> None:
        """Note what the load of each process needed that has just become ready."""
        for worker in (*self.fleet.workers.values(), *self.fleet.molds.values()):
            if worker.state is State.READY and not worker.weighed and (size := self.seats.peak(worker.seat)):
                self.tell(m.Weighed(worker.seat, size))

    def _look_for_room(self) -> None:
        room, words = self._headroom.read(), self.board.words
        self.memory_limits = room.limits
        words[Header.MEMORY_LIMIT], words[Header.MEMORY_USED] = room.limit, room.used
        words[Header.AVAILABLE] = 0 if room.free is None else room.free + 1
        # in steps: a number that changes on every tick would have the fleet made again on every tick
        free = None if room.free is None else room.free - room.free % STEP
        if (free, room.pressure) != (self.fleet.free, self.fleet.pressure):
            self.tell(m.RoomMeasured(free, room.pressure))

    def room_awaited(self, action: a.AwaitRoom, now: float) -> None:
        """Have slots wait for memory, and write down those that begin to."""
        before = self.fleet.waiting
        self.tell(m.RoomAwaited(action.lacks, now))
        for slot, waiting in self.fleet.waiting.items():
            if slot not in before:
                self.event_log.no_room(slot, waiting, self.policy.memory_margin, now)

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Write something of which half would contradict the rest: a `snapshot` waits until it is over.

        Nothing in it may take long: no fork, no hook of the user's, no file.
        """
        words = self.board.words
        words[Header.CHANGES] |= 1
        try:
            yield
        finally:
            words[Header.CHANGES] = (words[Header.CHANGES] + 1) % (1 << 62)

    def publish(self, now: float, *, phase: int, beat: int | None = None) -> None:
        """Write the fleet onto the board. ``beat``: the last sign of life, in monotonic ns, if it is not now."""
        with self._change():
            self._publisher.publish(self.policy, self.fleet, now, phase=phase)
            if beat is not None:
                self.board.words[Header.BEAT] = beat

    def serve(
        self, control: ControlSocket | None, respond: Callable[[Request], str | None], now: float
    ) -> None:
        """Answer the control requests that wait, each by itself. ``respond`` does what one asks for, and returns why not."""
        if control is None:
            return
        for request in control.requests():
            refused: str | None = NOT_DONE
            try:
                refused = request.refused or respond(request)
                self.event_log.asked(request, refused, now)
            except Exception:
                self.event_log.own_error()
            finally:
                control.answer(request, refused)

    # what the arbiter has done

    def spawning(self, action: a.Spawn, seat: int, now: float) -> None:
        self.tell(
            m.Spawning(
                action.slot, seat, action.generation, action.load_timeout, now, action.reason, action.mold
            )
        )

    def spawned(self, seat: int, now: float) -> None:
        self.tell(m.Spawned(seat, self.seats.pids[seat], now))
        worker = self.fleet.workers[seat]
        reason = self.fleet.record(worker.slot).wanted_out
        mold = None if worker.mold is None else self.seats.pids.get(worker.mold)
        self.event_log.spawned(worker, reason, mold=mold)

    def forked(self, seat: int, mold: int, now: float) -> None:
        """Take in a worker that the mold in a seat has forked."""
        self.seats.forked(seat, mold)
        self.spawned(seat, now)

    def not_spawned(
        self,
        slot: int,
        refusal: str,
        now: float,
        *,
        seat: int | None = None,
        excused: bool = False,
        memory: bool = False,
    ) -> None:
        """Take in that a process could not be started. ``excused``, ``memory``: see `message.SpawnFailed`."""
        self.tell(m.SpawnFailed(slot, now, seat, excused, memory))
        if excused:
            self.event_log.not_forked(slot, refusal)
        else:
            self.event_log.not_spawned(slot, refusal)

    def mold_spawned(self, action: a.SpawnMold, seat: int, now: float) -> None:
        pid = self.seats.pids[seat]
        self.tell(m.MoldSpawned(seat, pid, action.generation, action.load_timeout, now))
        self.event_log.mold_spawned(self.fleet.molds[seat])

    def converted(self, action: a.Convert, now: float) -> None:
        self.tell(m.Converted(action.seat, action.slot, now, action.reason))
        worker = self.fleet.workers[action.seat]
        self.event_log.spawned(worker, action.reason, mold=worker.pid)

    def stand_in_not_spawned(self, refusal: str, now: float) -> None:
        self.tell(m.StandInGone(now))
        self.event_log.not_spawned(None, refusal)

    def duty_set(self, action: a.Duty, now: float) -> None:
        self.tell(m.DutySet(action.seat, action.on, now))
        self.event_log.duty(self.fleet, action.seat, on=action.on)

    def gave_up(self, action: a.GiveUp, now: float) -> None:
        self.tell(m.StopAsked(now, exit_code=action.exit_code, reason=action.reason))
        self.event_log.gave_up(action.reason)

    def reload_refused(self, reason: str, asked_by: str, now: float, retry: Retry) -> None:
        """Take in that a reload was refused."""
        self.tell(m.ReloadRefused(reason, now, retry))
        if self.fleet.refusal is not None:
            self.event_log.reload_refused(self.fleet.refusal, asked_by)

    def retired(self, action: a.Retire, now: float) -> None:
        self.tell(m.Asked(action.seat, action.reason, now, action.quick, action.makes_room))
        self.event_log.retired(self.fleet.process(action.seat), action.reason)

    def aborted(self, action: a.Abort, now: float) -> None:
        self.tell(m.Aborted(action.seat, action.reason, now))
        self.event_log.aborted(self.fleet.process(action.seat), action.reason)

    def killed(self, action: a.Kill, now: float) -> None:
        self.tell(m.Killed(action.seat, action.reason, now, action.evil))
        self.event_log.killed(self.fleet.process(action.seat), action.reason)

    def buried(self, seat: int, end: Exit, dump: str, now: float) -> None:
        """Take a worker that has ended out of the fleet; its last words have been observed. It may be tried again."""
        gone = self.fleet.process(seat)
        if gone is None:
            return
        # before the event is written: who reads that it has ended also finds what it has counted
        self._fold(gone)
        # the seat counts nothing any more, should this be tried again
        cause, failure = self.event_log.exited(self._folded[gone.pid], end, dump, self.seats, now=now)
        if failure is not None:
            self.tell(m.LoadFailed(failure))
        transient, memory = bool(cause & Cause.TRANSIENT), bool(cause & Cause.MEMORY)
        self.tell(m.Exited(seat, now, clean=end.clean, transient=transient, memory=memory))
        del self._folded[gone.pid]
        self.event_log.next_try(self.fleet, gone, now)

    def given_up(self, seat: int, now: float) -> None:
        """Take a worker that has ended out of the fleet, although its end cannot be written down."""
        gone = self.fleet.process(seat)
        if gone is None:
            return
        self.tell(m.Exited(seat, now))
        self._fold(gone)
        del self._folded[gone.pid]

    def _fold(self, gone: Worker) -> None:
        """Count once what a process has counted that is gone."""
        if gone.pid in self._folded:
            return
        if not gone.is_mold:
            with self._change():
                self._publisher.fold(gone.slot, gone.seat)
        self._folded[gone.pid] = gone

    def recycle(self, arguments: dict[str, Any], asked_by: str) -> str | None:
        """Have one slot's worker replaced, or every slot's; return why not."""
        target = self.fleet.target
        slot = arguments.get("slot")
        if arguments.get("all") is True:
            slots = [n for n in range(1, target + 1) if self.fleet.incumbent(n) is not None]
            if not slots:
                return "no slot has a worker to replace: see workerguard status"
        elif not isinstance(slot, int) or isinstance(slot, bool) or not 1 <= slot <= target:
            return f"there is no slot {slot}: the slots are 1 to {target}"
        elif self.fleet.incumbent(slot) is None:
            return f"slot {slot} has no worker to replace: see workerguard explain {slot}"
        else:
            slots = [slot]
        for number in slots:
            self.tell(m.RecycleAsked(number, Reason(Rule.BY_HAND, f"asked by {asked_by}")))
        return None


def _backlog(listeners: Iterable[Any]) -> int | None:
    """Return how many connections wait to be accepted; None: unknown. The kernel does not tell it of a unix socket."""
    known = [listener.get_backlog() for listener in listeners]
    waiting = sum(count for count in known if count > 0)
    return waiting if waiting or (known and min(known) >= 0) else None
