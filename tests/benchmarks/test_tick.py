"""What a tick of the arbiter costs, in processor time: calm, and while every worker answers 5xx."""

from __future__ import annotations

import logging
import os
import statistics
import time
from typing import Any

import pytest

from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import action as a
from django_workerguard.policy.plan import next_deadline, plan
from django_workerguard.policy.view import Policy
from django_workerguard.probe.headroom import HeadroomReader
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import write_bounds
from django_workerguard.scoreboard.header import Phase
from django_workerguard.scoreboard.layout import (
    HISTOGRAM_WORDS,
    Orders,
    Seat,
    SeatKind,
    SeatState,
    layout_for,
)
from tests.benchmarks.measure import judge

TICKS = 60
GOALS = {64: 3.0, 500: 25.0}  # milliseconds in an outage, by workers
HEADROOM_GOAL, READS = 0.2, 400  # milliseconds for one look at the memory and its pressure


class Arbiter:
    """The tick without its processes: each worker is this process, which there is really something to read of."""

    def __init__(self, workers: int) -> None:
        self.board = Board.create(layout_for(workers, surge=1), None)
        self.policy = Policy(load_concurrency=workers, stand_in=False, timeout=0.0)
        write_bounds(self.board, (0.1, 1.0))
        self.tracker = Tracker(self.board, logging.getLogger("tick"), self.policy, target=workers)
        self.now = 0.0
        self.seats: list[int] = []
        for action in plan(self.policy, self.tracker.fleet, 0.0):
            assert isinstance(action, a.Spawn)
            seat = self.tracker.seats.take(
                SeatKind.WORKER, slot=action.slot, generation=1, orders=Orders.ADMIT
            )
            assert seat is not None
            self.tracker.seats.adopt(seat, os.getpid())
            self.tracker.spawning(action, seat, 0.0)
            self.tracker.spawned(seat, 0.0)
            self.write(seat, Seat.STATE, SeatState.READY)
            self.seats.append(seat)
        assert len(self.seats) == workers

    def write(self, seat: int, word: Seat, value: int) -> None:
        self.board.words[self.board.layout.seat(seat) + word] = value

    def serve(self, *, requests: int, errors: int) -> None:
        """Add to the counts of every worker."""
        for seat in self.seats:
            for word, more in ((Seat.BEAT, 1), (Seat.REQUESTS, requests), (Seat.ERRORS_5XX, errors)):
                at = self.board.layout.seat(seat) + word
                self.board.words[at] += more
            self.board.words[self.board.layout.histograms(seat) + HISTOGRAM_WORDS] += requests

    def tick(self) -> float:
        """Run one tick a second later, and return its processor time in milliseconds."""
        self.now += 1.0
        begun = time.process_time()
        self.tracker.observe(self.now)
        self.tracker.measure(self.now)
        actions: tuple[Any, ...] = plan(self.tracker.policy, self.tracker.fleet, self.now)
        self.tracker.publish(self.now, phase=Phase.SERVING)
        next_deadline(self.tracker.policy, self.tracker.fleet, self.now)
        assert not actions
        return (time.process_time() - begun) * 1000


def ticks(workers: int, *, errors: int) -> list[float]:
    arbiter = Arbiter(workers)
    try:
        took = []
        for _ in range(TICKS):
            arbiter.serve(requests=20, errors=errors)
            took.append(arbiter.tick())
        return took[TICKS // 2 :]
    finally:
        arbiter.board.close()


def test_a_look_at_the_memory_that_is_left():
    reader, took = HeadroomReader(), []
    assert reader.read().free is not None
    for _ in range(READS):
        begun = time.process_time()
        reader.read()
        took.append((time.process_time() - begun) * 1000)
    middle = statistics.median(took)
    judge(
        f"headroom and PSI, {READS} looks",
        f"{middle:.3f} ms of CPU, at most {max(took):.3f}",
        figures=[(middle <= HEADROOM_GOAL, f"{middle:.3f} ms of at most {HEADROOM_GOAL:g}")],
    )


@pytest.mark.parametrize("workers", GOALS)
def test_a_tick(workers):
    calm, outage = ticks(workers, errors=0), ticks(workers, errors=20)
    middle = statistics.median(outage)
    judge(
        f"a tick of {workers} workers, {len(outage)} ticks",
        f"calm:   {statistics.median(calm):6.2f} ms of CPU, at most {max(calm):.2f}",
        f"outage: {middle:6.2f} ms of CPU, at most {max(outage):.2f}",
        figures=[(middle <= GOALS[workers], f"{middle:.2f} ms of at most {GOALS[workers]:g} in an outage")],
    )
