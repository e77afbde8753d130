"""Admission by headroom: whether a load or a fork fits into the memory that is left. Pure.

A process that does not fit waits as `no-room` until there is room. It never starves: the first load of an empty server
always runs, and a waiting one is tried at growing intervals even so, one at a time, because a measure can be wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from django_workerguard.policy.backoff import back_off
from django_workerguard.policy.view import Fleet, Policy, State, Waiting, Worker

KEPT = (
    5  # measured processes of each kind, of which the largest counts: one that was measured late is forgotten
)
FIRST_WAIT = (
    10.0  # seconds, at most, until the first try without room; the wait doubles up to load-retry-max-delay
)
UNMEASURED = 256 << 20  # bytes that a process is taken to need if none of its kind has been measured
PRESSURE = 10.0  # percent: from here on one process loads at a time
COMING = (State.SPAWNING, State.LOADING, State.LOADED, State.FAILED)


class Lack(NamedTuple):
    """A slot whose next process does not fit: what the process needs, and what is left for it, in bytes; slot 0: a mold."""

    slot: int
    need: int
    left: int


def kind_of(worker: Worker) -> str:
    """Name what a process needs memory for."""
    return "mold" if worker.is_mold else "load" if worker.mold is None else "fork"


def need(fleet: Fleet, kind: str) -> int:
    """Return the most memory that a process of a kind has needed, in bytes; 0 if none was measured.

    Until the newest generation has been measured, the one before it is the best guess.
    """
    return max(fleet.sizes.get(kind, (0, ()))[1], default=0)


def is_pressed(policy: Policy, fleet: Fleet) -> bool:
    """Say whether processes already wait for memory."""
    return bool(policy.memory_margin) and (fleet.pressure or 0.0) >= PRESSURE


class Budget:
    """The memory of one plan. Each process that the plan starts takes from it."""

    def __init__(self, policy: Policy, fleet: Fleet, now: float) -> None:
        self._policy, self._fleet, self._now = policy, fleet, now
        coming = [*fleet.of(*COMING), *(one for one in fleet.molds.values() if one.state is State.LOADING)]
        self._alone = not coming
        # of each that loads its whole need counts, because how much it has already taken is not known
        taken = sum(need(fleet, kind_of(one)) for one in coming if one.state is not State.FAILED)
        self._left = None if fleet.free is None else max(0, fleet.free - taken)
        # after FIRST_WAIT most of what such a process takes is part of what is used
        self._unmeasured = sum(
            not need(fleet, kind_of(one)) and now - one.spawned < FIRST_WAIT
            for one in coming
            if one.state is not State.FAILED
        )
        self.lacks: list[Lack] = []

    def admits(self, slot: int, kind: str) -> bool:
        """Say whether a process may start in a slot as far as memory is concerned. If not, note what it lacks."""
        needed = need(self._fleet, kind)
        if self._left is None or not self._policy.memory_margin:
            return True
        if not needed:  # it waits for a measure, not for room
            wanted = (self._unmeasured + 1) * UNMEASURED + self._policy.memory_margin
            return not self._unmeasured or self._left >= wanted
        if self._left >= needed + self._policy.memory_margin:
            return True
        waiting = self._fleet.waiting.get(slot)
        tried_even_so = waiting is not None and self._now >= waiting.next_try
        if self._alone and (tried_even_so or not self._fleet.ready):
            return True
        self.lacks.append(Lack(slot, needed, self._left))
        return False

    @property
    def has_changed(self) -> bool:
        """Whether other slots lack room, or with other numbers, than the fleet remembers."""
        margin = self._policy.memory_margin
        now = {lack.slot: (lack.need + margin, lack.left) for lack in self.lacks}
        return now != {slot: waiting[:2] for slot, waiting in self._fleet.waiting.items()}

    def take(self, kind: str) -> None:
        """Note that the plan starts a process."""
        self._alone = False
        self._unmeasured += not need(self._fleet, kind)
        if self._left is not None:
            self._left = max(0, self._left - need(self._fleet, kind))


def weighed(fleet: Fleet, seat: int, size: int) -> Fleet:
    """Return the fleet after the size of a load, in bytes, was measured in a process that is ready."""
    worker = fleet.process(seat)
    if worker is None:
        return fleet
    kind = kind_of(worker)
    generation, earlier = fleet.sizes.get(kind, (0, ()))
    if worker.generation >= generation:
        sizes = (*(earlier if worker.generation == generation else ()), size)[-KEPT:]
        fleet = replace(fleet, sizes={**fleet.sizes, kind: (worker.generation, sizes)})
    if worker.is_mold:
        return replace(fleet, molds={**fleet.molds, seat: replace(worker, weighed=True)})
    return replace(fleet, workers={**fleet.workers, seat: replace(worker, weighed=True)})


def awaited(policy: Policy, fleet: Fleet, lacks: tuple[Lack, ...], at: float) -> Fleet:
    """Return the fleet after these slots, and no others, were found to lack room."""
    waiting = {}
    for lack in lacks:
        before = fleet.waiting.get(lack.slot)
        next_try = before.next_try if before else at + _wait(policy, fleet, lack.slot)
        waiting[lack.slot] = Waiting(lack.need + policy.memory_margin, lack.left, next_try)
    return replace(fleet, waiting=waiting)


def _wait(policy: Policy, fleet: Fleet, slot: int) -> float:
    record = fleet.record(slot) if slot else fleet.mold_record
    return back_off(
        record.squeezed + 1,
        slot=slot,
        first=min(FIRST_WAIT, policy.load_retry_max_delay),
        longest=policy.load_retry_max_delay,
        transient=True,
        seed=policy.seed,
    )
