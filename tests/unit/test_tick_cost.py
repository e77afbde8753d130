"""A tick of the arbiter costs as many instructions per worker on a large server as on a small one, also in an outage."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from tests.benchmarks.test_tick import Arbiter

FEW, MANY = 50, 400


def instructions_of_a_tick(workers: int, *, errors: int) -> int:
    """Return how many instructions of Python one tick runs."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    arbiter = Arbiter(workers)
    before = sys.gettrace()
    try:
        for _ in range(3):  # the first ticks do what is done once
            arbiter.serve(requests=20, errors=errors)
            arbiter.tick()
        arbiter.serve(requests=20, errors=errors)
        sys.settrace(trace)
        arbiter.tick()
    finally:
        sys.settrace(before)
        arbiter.board.close()
    return count


@pytest.mark.parametrize("errors", [0, 20])
def test_a_tick_is_linear_in_the_number_of_workers(errors):
    few, many = (instructions_of_a_tick(workers, errors=errors) / workers for workers in (FEW, MANY))
    assert many < 1.2 * few, f"{few:.0f} instructions for each of {FEW} workers, {many:.0f} of {MANY}"
