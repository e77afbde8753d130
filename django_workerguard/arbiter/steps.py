"""What an arbiter does in a tick: each step by itself, so that one that fails keeps no other from running. Runs in the arbiter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django_workerguard.arbiter.apply import Applier
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy.plan import plan

Survives = Callable[..., bool]  # runs a step with its arguments, and returns whether it succeeded


def run_steps(survives: Survives, steps: Iterable[Callable[[], Any]]) -> bool:
    """Run every step, and return whether all succeeded."""
    went_well = [survives(step) for step in steps]  # every one of them, also after one that failed
    return all(went_well)


def act(survives: Survives, tracker: Tracker, applier: Applier, now: float) -> None:
    """Apply the plan. If one action fails, the others are still applied.

    ``now`` is later than the time of every message of this tick: a slot whose worker was just buried is due now.
    """
    for action in plan(tracker.policy, tracker.fleet, now):
        survives(applier.apply, action, now)
