"""What the server shows of a process that was killed and that the kernel does not end."""

from __future__ import annotations

import logging
import signal
import subprocess

import pytest

from django_workerguard.arbiter.children import Children
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.molds import Molds
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy
from django_workerguard.report.findings import assess
from django_workerguard.report.outcome import Outcome, Recycle
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Phase
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.layout import Layout, Orders, Seat, SeatKind, SeatState
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.mold_channel import Answer
from tests.unit.fleets import Fork


class Answered:
    """A channel in which answers of a mold wait."""

    def __init__(self, *answers: tuple[int, Answer]) -> None:
        self._answers = answers

    def receive(self):
        yield from self._answers


@pytest.fixture
def tracker():
    """A tracker of two slots: their workers load."""
    board = Board.create(Layout(seats=6, slots=4), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(stand_in=False), target=2)
    children = Children(tracker.seats, Fork(), tracker.event_log)
    for slot in (1, 2):
        start = children.reserve(SeatKind.WORKER, slot, 1, Orders.NONE)
        tracker.spawning(a.Spawn(slot, 1, 60.0), start.seat, 0.0)
        tracker.spawned(children.start(start).seat, 0.0)
    yield tracker
    board.close()


def seat_of(tracker: Tracker, slot: int) -> int:
    return tracker.fleet.incumbent(slot).seat


def all_ready(tracker: Tracker) -> None:
    for slot in (1, 2):
        tracker.board.words[tracker.board.layout.seat(seat_of(tracker, slot)) + Seat.STATE] = SeatState.READY
    tracker.observe(1.0)


def test_a_recycle_is_over_when_the_old_worker_has_ended_or_cannot():
    following = Recycle("lazy", {1: 101})
    assert following.take({"event": "ready", "slot": 1, "pid": 102}) is None
    assert following.take({"event": "killed", "slot": 1, "pid": 101}) is None
    event = {"event": "not-ended", "slot": 1, "pid": 101}
    assert following.take(event) == Outcome("done", "recycle: done.", event)


def test_a_slot_above_the_target_is_not_shown_for_a_process_that_the_kernel_does_not_end(tracker):
    all_ready(tracker)
    seat = seat_of(tracker, 2)
    tracker.tell(m.TargetChanged(1))
    tracker.retired(a.Retire(seat, Reason(Rule.SCALE)), 2.0)
    tracker.killed(a.Kill(seat, Reason(Rule.WORKER_RELOAD_MERCY)), 3.0)
    for now, slots in ((7.0, [1, 2]), (8.0, [1])):
        tracker.observe(now)
        tracker.publish(now, phase=Phase.SERVING)
        assert [slot["slot"] for slot in snapshot(tracker.board)["slots"]] == slots


def events(tracker: Tracker) -> list[str]:
    return [event["event"] for event in read_events(tracker.board)]


def test_the_load_of_a_process_that_the_kernel_does_not_end_has_failed(tracker):
    seat = seat_of(tracker, 1)
    tracker.aborted(a.Abort(seat, Reason(Rule.LOAD_TIMEOUT, "60 s")), 60.0)
    tracker.killed(a.Kill(seat, Reason(Rule.LOAD_TIMEOUT, "60 s")), 63.0)
    tracker.observe(68.0)
    assert events(tracker)[-3:] == ["not-ended", "load-failed", "back-off"]
    tracker.publish(68.0, phase=Phase.SERVING)
    shot = snapshot(tracker.board)
    slot = shot["slots"][0]
    assert [(one.code, one.slot) for one in assess(shot) if one.code == "not-ended"] == [("not-ended", 1)]
    assert (slot["last_error"]["type"], slot["last_error"]["message"]) == (
        "load-timeout",
        "60 s; killed by SIGKILL",
    )
    assert tracker.fleet.last_failure.kind == "load-timeout"
    assert tracker.board.read_tallies()["load_failures"]["timeout"] == 1
    tracker.buried(seat, Exit(None, signal.SIGKILL), "", 100.0)
    assert events(tracker)[-1] == "exited"
    assert tracker.board.read_tallies()["load_failures"]["timeout"] == 1, "once"
    tracker.publish(100.0, phase=Phase.SERVING)
    assert "not-ended" not in [one.code for one in assess(snapshot(tracker.board))]


def test_a_mold_that_the_kernel_does_not_end_has_failed_to_load_too(tracker):
    tracker.tell(m.MoldSpawned(5, 105, 1, 60.0, 0.0))
    tracker.aborted(a.Abort(5, Reason(Rule.LOAD_TIMEOUT, "60 s")), 60.0)
    tracker.killed(a.Kill(5, Reason(Rule.LOAD_TIMEOUT, "60 s")), 63.0)
    tracker.observe(68.0)
    assert events(tracker)[-3:] == ["not-ended", "load-failed", "back-off"]
    assert tracker.board.read_last_error(0)["type"] == "load-timeout"


def test_why_a_worker_was_killed_is_kept_and_its_end_does_not_hide_what_came_after_it(tracker):
    all_ready(tracker)
    seat = seat_of(tracker, 1)
    tracker.aborted(a.Abort(seat, Reason(Rule.TIMEOUT, "no sign of life for 30 s")), 60.0)
    tracker.killed(a.Kill(seat, Reason(Rule.TIMEOUT, "no sign of life for 30 s")), 63.0)
    tracker.observe(68.0)
    assert tracker.board.read_last_error(1)["type"] == "timeout"
    tracker.board.write_last_error(1, {"type": "ImportError", "message": "no module", "at": 70.0})
    tracker.buried(seat, Exit(None, signal.SIGKILL), "", 100.0)
    assert tracker.board.read_last_error(1)["type"] == "ImportError"


def test_a_worker_that_a_mold_has_forked_is_taken_in_although_the_kernel_does_not_end_the_mold(tracker):
    children = Children(tracker.seats, Fork(), tracker.event_log, mold_fork=Fork())
    mold = children.start(children.reserve(SeatKind.MOLD, 0, 1, Orders.NONE)).seat
    tracker.mold_spawned(a.SpawnMold(1, 60.0), mold, 0.0)
    named, late = (children.reserve(SeatKind.WORKER, slot, 1, Orders.NONE) for slot in (1, 2))
    for start in (named, late):
        tracker.spawning(a.Spawn(start.slot, 1, 60.0, mold=mold), start.seat, 1.0)
        children.ask(mold, start)
    tracker.killed(a.Kill(mold, Reason(Rule.FORK_TIMEOUT)), 6.0)
    tracker.observe(11.0)
    with subprocess.Popen(["sleep", "60"]) as worker:
        try:
            Molds(tracker, children, Answered((mold, Answer(named.seat, worker.pid)))).receive(11.0)
            assert tracker.fleet.workers[named.seat].pid == worker.pid
            assert late.seat not in tracker.fleet.workers, "it is asked for elsewhere"
        finally:
            worker.kill()
