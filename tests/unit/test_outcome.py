"""When a request to a running server is over, by the events that follow it."""

from __future__ import annotations

import pytest

from django_workerguard.report.outcome import Recycle, outcome_of

DONE, FAILED = "done", "failed"


def event(name: str, slot: int = 1, pid: int = 101, **fields):
    return {"event": name, "slot": slot, "pid": pid, **fields}


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([event("ready", pid=102), event("retiring"), event("exited")], DONE),
        ([event("retiring"), event("exited"), event("spawned", pid=102)], None),
        ([event("retiring"), event("exited"), event("ready", pid=102)], DONE),
        ([event("retiring"), event("exited"), event("load-failed", pid=102)], FAILED),
        ([event("retiring"), event("exited"), event("ready", slot=2, pid=102)], None),
        ([event("ready"), event("retiring"), event("exited")], None),
        ([event("ready", pid=102), event("retiring"), event("killed"), event("not-ended")], DONE),
        ([event("exited"), {"event": "scaled", "target": 1}], None),
        ([event("exited"), {"event": "scaled", "target": 0}], DONE),
        ([event("spawn-failed", pid=None)], FAILED),
        ([event("load-failed", slot=0, pid=100)], FAILED),
        ([event("load-failed", slot=2, pid=104)], None),
    ],
    ids=[
        "its successor is ready first",
        "it has left, and its successor loads",
        "its successor is ready after it has left",
        "its successor cannot load",
        "another slot's worker is ready",
        "the worker that is to leave becomes ready itself",
        "the kernel does not end it",
        "another number of workers keeps the slot",
        "another number of workers closes the slot",
        "no successor can be started",
        "the mold cannot load",
        "another slot's worker cannot load",
    ],
)
def test_a_recycle_is_done_when_the_worker_has_gone_and_another_one_is_ready(events, kind):
    outcome = outcome_of(Recycle("lazy", {1: 101}).take, events)
    assert (outcome and outcome.kind) == kind


def test_a_recycle_of_several_slots_is_done_with_the_last_one():
    first = [event("retiring"), event("exited"), event("ready", pid=103)]
    second = [event("ready", slot=2, pid=104), event("retiring", slot=2, pid=102)]
    last = event("exited", slot=2, pid=102)
    following = Recycle("lazy", {1: 101, 2: 102})
    assert outcome_of(following.take, [*first, *second]) is None
    assert following.take(last).kind == DONE
