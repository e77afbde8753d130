"""Fleets that a test tells what has happened, and a fork without processes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from django_workerguard.policy import message as m
from django_workerguard.policy.fold import fold
from django_workerguard.policy.reason import Reason
from django_workerguard.policy.view import Fleet, Policy, State
from django_workerguard.scoreboard.layout import Orders

POLICY = Policy(load_concurrency=2, stand_in=False, timeout=0.0)


@dataclass(frozen=True)
class Start:
    """A worker of the newest generation was asked for, and is there at once."""

    slot: int
    seat: int
    pid: int
    load_timeout: float
    at: float
    reason: Reason | None = None
    mold: int | None = None

    def messages(self, fleet: Fleet) -> tuple[m.Message, ...]:
        asked = m.Spawning(
            self.slot, self.seat, fleet.generation, self.load_timeout, self.at, self.reason, self.mold
        )
        return (asked, m.Spawned(self.seat, self.pid, self.at))


def told(fleet: Fleet, *messages: m.Message | Start, policy: Policy = POLICY) -> Fleet:
    for message in messages:
        for one in message.messages(fleet) if isinstance(message, Start) else (message,):
            fleet = fold(policy, fleet, one)
    return fleet


def ready_fleet(count: int, *, policy: Policy = POLICY, at: float = 0.0) -> Fleet:
    fleet = Fleet(target=count)
    for slot in range(1, count + 1):
        fleet = told(fleet, Start(slot, slot, 100 + slot, 60.0, at), m.Admitted(slot, at), policy=policy)
        fleet = told(fleet, m.Observed((m.Reading(slot, State.READY, 1),), at), policy=policy)
    return fleet


class Fork:
    """Has no processes: the pids are those of this one and of its parent."""

    orders = Orders.NONE

    def __init__(self) -> None:
        self.pids = [os.getpid(), os.getppid()]

    def handle(self, start):
        return None

    def fork(self, start, handle, others):
        return self.pids.pop(0), None

    def ask(self, mold, start):
        return None

    def arrived(self, pid, worker):
        pass
