"""Apply what the policy has planned: one match over its actions, for every arbiter. Runs in the arbiter.

It holds no decision. What differs between servers is given as a `Server`.
"""

from __future__ import annotations

import signal
from typing import Protocol

from django_workerguard.arbiter.children import CannotStartError, Children, MoldUnreachableError
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.scoreboard.layout import Orders, SeatKind


class Server(Protocol):
    """What actions need of gunicorn, or of Celery's pool."""

    def ask_to_leave(self, seat: int, *, quick: bool) -> None:
        """Have the process in a seat leave, ``quick`` without finishing its requests."""

    def reload_again(self) -> None:
        """Try a reload again that was refused."""

    def close_listeners(self) -> None:
        """Accept no connection any more."""

    def give_up(self, code: int, reason: Reason) -> None:
        """Begin to end the server with this exit code."""

    def end(self, code: int, reason: Reason | None) -> None:
        """End the arbiter: no process is left."""


class Applier:
    """Does what is planned, and tells the tracker that it is done."""

    def __init__(self, tracker: Tracker, children: Children, server: Server) -> None:
        self._tracker = tracker
        self._children = children
        self._server = server

    def apply(self, action: a.Action, now: float) -> None:
        tracker, children, server = self._tracker, self._children, self._server
        match action:
            case a.Spawn():
                self._spawn(action, now)
            case a.SpawnMold():
                self._spawn_mold(action, now)
            case a.Convert():
                self._convert(action, now)
            case a.SpawnStandIn():
                self._spawn_stand_in(now)
            case a.AwaitRoom():
                tracker.room_awaited(action, now)
            case a.Admit(seat):
                tracker.seats.order(seat, Orders.ADMIT)
                tracker.tell(m.Admitted(seat, now))
            case a.Duty(seat, on):
                tracker.seats.order(seat, Orders.DUTY, on=on)
                children.signal(seat, signal.SIGWINCH)
                tracker.duty_set(action, now)
            case a.Retire(seat, _, quick):
                server.ask_to_leave(seat, quick=quick)
                tracker.retired(action, now)
            case a.Abort(seat):
                children.signal(seat, signal.SIGABRT)
                tracker.aborted(action, now)
            case a.Kill(seat):
                children.signal(seat, signal.SIGKILL)
                tracker.killed(action, now)
            case a.Reload():
                server.reload_again()
            case a.CloseListeners():
                server.close_listeners()
                tracker.tell(m.ListenersClosed(now))
            case a.GiveUp(code, reason):
                tracker.gave_up(action, now)
                server.give_up(int(code), reason)
            case a.Halt(code, reason):
                server.end(int(code), reason)

    def _spawn(self, action: a.Spawn, now: float) -> None:
        orders = Orders.STAY if action.stay else Orders.NONE
        seat = None
        try:
            start = self._children.reserve(SeatKind.WORKER, action.slot, action.generation, orders)
            seat = start.seat
            self._tracker.spawning(action, seat, now)
            if action.mold is None:
                self._children.start(start)
                self._tracker.spawned(seat, now)
            else:
                self._children.ask(action.mold, start)
        except CannotStartError as error:
            excused = isinstance(error, MoldUnreachableError)
            self._tracker.not_spawned(action.slot, str(error), now, seat=seat, excused=excused)

    def _spawn_mold(self, action: a.SpawnMold, now: float) -> None:
        try:
            start = self._children.reserve(SeatKind.MOLD, 0, action.generation, Orders.NONE)
            child = self._children.start(start)
        except CannotStartError as error:
            self._tracker.not_spawned(0, str(error), now)
        else:
            self._tracker.mold_spawned(action, child.seat, now)

    def _convert(self, action: a.Convert, now: float) -> None:
        try:
            self._children.convert(action.seat, action.slot)
        except MoldUnreachableError as error:
            self._tracker.not_spawned(action.slot, str(error), now, excused=True)
            self.apply(a.Kill(action.seat, Reason(Rule.UNFIT, str(error))), now)
        except CannotStartError as error:
            self._tracker.not_spawned(action.slot, str(error), now)
        else:
            self._tracker.converted(action, now)

    def _spawn_stand_in(self, now: float) -> None:
        try:
            child = self._children.start(self._children.reserve(SeatKind.STAND_IN, 0, 0, Orders.NONE))
        except CannotStartError as error:
            self._tracker.stand_in_not_spawned(str(error), now)
        else:
            self._tracker.tell(m.StandInSpawned(child.seat, child.pid, now))
