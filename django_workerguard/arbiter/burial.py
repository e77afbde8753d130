"""Take children that have ended out of the fleet, for every arbiter. Runs in the arbiter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from django_workerguard.arbiter.children import Child, Children
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import message as m
from django_workerguard.scoreboard.layout import SeatKind

MOST_TRIES = 3  # to write down how a child ended


class Burial:
    """Buries dead children. One whose end cannot be written down is tried again, and then leaves without a record."""

    def __init__(
        self,
        tracker: Tracker,
        children: Children,
        *,
        bury: Callable[[Child, Exit], None],
        survives: Callable[..., bool],
        clock: Callable[[], float],
        close_channel: Callable[[int], None] = lambda _seat: None,
    ) -> None:
        """``bury`` writes down the end of one child; ``survives`` runs a step, and returns whether it succeeded.

        ``close_channel``: to the mold in a seat, if there is one.
        """
        self._tracker = tracker
        self._children = children
        self._bury = bury
        self._survives = survives
        self._clock = clock
        self._close_channel = close_channel
        self._tries: dict[int, int] = {}  # by pid: failed tries

    def run(self) -> Iterator[Child]:
        """Bury every child that has ended, and yield it. One that fails does not keep the others from being buried."""
        dead = self._children.dead()
        if dead:
            self._survives(
                self._tracker.observe, self._clock()
            )  # the last states of processes that died between two ticks
        for child, end in dead:
            if self._survives(self._bury, child, end) or self._gave_up(child):
                self._tries.pop(child.pid, None)
                self._children.forget(child)
                yield child

    def _gave_up(self, child: Child) -> bool:
        """After MOST_TRIES free the slot without a record, so that it heals; return whether that was done."""
        tries = self._tries[child.pid] = self._tries.get(child.pid, 0) + 1
        return tries >= MOST_TRIES and self._survives(self._give_up, child)

    def _give_up(self, child: Child) -> None:
        now = self._clock()
        for start in self._children.asked_of(child.seat):  # of a mold
            self._children.did_not_arrive(start.seat)
            self._tracker.tell(m.SpawnFailed(start.slot, now, start.seat, excused=True))
        self._close_channel(child.seat)
        if child.start.kind is SeatKind.STAND_IN:
            self._tracker.tell(m.StandInGone(now, child.seat))
        else:
            self._tracker.given_up(child.seat, now)
