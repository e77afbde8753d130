"""A tick of the arbiter costs as many instructions per worker on a large server as on a small one, whatever goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from django_workerguard.policy.plan import plan
from django_workerguard.policy.view import State
from tests.benchmarks.test_tick import Arbiter

FEW, MANY = 50, 400


def instructions(run: Callable[[], object]) -> int:
    """Return how many instructions of Python a call runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def assert_linear(cost: Callable[[int], int]) -> None:
    cost(FEW)  # Python 3.12 counts a function's instructions only after it was traced once
    few, many = (cost(workers) / workers for workers in (FEW, MANY))
    assert many < 1.2 * few, f"{few:.0f} instructions for each of {FEW} workers, {many:.0f} of {MANY}"


def ticking(workers: int, *, errors: int) -> Arbiter:
    """Return an arbiter that has done what only the first ticks do."""
    arbiter = Arbiter(workers)
    for _ in range(3):
        arbiter.serve(requests=20, errors=errors)
        arbiter.tick()
    return arbiter


@pytest.mark.parametrize("errors", [0, 20])
def test_a_tick_is_linear_in_the_number_of_workers(errors):
    def cost(workers: int) -> int:
        arbiter = ticking(workers, errors=errors)
        arbiter.serve(requests=20, errors=errors)
        try:
            return instructions(arbiter.tick)
        finally:
            arbiter.board.close()

    assert_linear(cost)


@pytest.mark.parametrize("load", ["lazy", "mold"])
@pytest.mark.parametrize("state", State)
def test_a_plan_is_linear_whatever_state_the_workers_of_the_old_generation_are_in(load, state):
    def cost(workers: int) -> int:
        arbiter = ticking(workers, errors=0)
        arbiter.board.close()
        fleet, policy = arbiter.tracker.fleet, replace(arbiter.policy, load=load)
        there = {seat: replace(worker, state=state) for seat, worker in fleet.workers.items()}
        fleet = replace(fleet, workers=there, generation=fleet.generation + 1)
        return instructions(lambda: plan(policy, fleet, arbiter.now))

    assert_linear(cost)
