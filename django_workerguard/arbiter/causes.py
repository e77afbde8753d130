"""Of what kind a failed load or an ended process was, and how its end is described. Runs in the arbiter."""

from __future__ import annotations

import time
from typing import Any

from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.seats import Seats
from django_workerguard.policy.reason import Killer
from django_workerguard.policy.view import State, Worker
from django_workerguard.scoreboard.layout import Cause, Seat
from django_workerguard.scoreboard.tallies import OTHER

# labels of the metric that counts exits
EXITS_BY_KILLER: dict[Killer | None, str] = {Killer.OUT_OF_MEMORY: "out-of-memory", Killer.UNKNOWN: "sigkill"}


def cause_of(seats: Seats, seat: int) -> Cause:
    return Cause(seats.word(seat, Seat.CAUSE) & (Cause.TRANSIENT | Cause.MEMORY))


def kind_of_failure(cause: Cause) -> str:
    """Name, for the tallies, the failure of a load that said itself why."""
    if cause & Cause.MEMORY:
        return "memory"
    return "transient" if cause & Cause.TRANSIENT else "exception"


def kind_of_exit(worker: Worker, end: Exit, killer: Killer | None) -> str:
    """Name, for the tallies, how a process ended that was not loading."""
    if worker.aborted is not None or killer is Killer.ARBITER:
        return worker.reason.rule if worker.reason else OTHER
    if end.signal is not None:
        return EXITS_BY_KILLER.get(killer, "signal")
    if worker.state is State.RETIRING:
        return "asked"
    return "unasked" if end.clean else "exit-code"


def describe(worker: Worker, end: Exit, dump: str, step: str | None, killer: Killer | None) -> dict[str, Any]:
    """Describe the end of a process that could not say anything itself."""
    kind, message = end.kind, (killer.text if killer else "") or "the process ended and reported no reason"
    if worker.aborted is not None and worker.reason is not None:
        kind, message = worker.reason.rule.value, f"{worker.reason.text}; {end}"
    elif end.signal is None:
        message = str(end)
    return {"type": kind, "message": message, "traceback": dump, "step": step, "at": time.time()}
