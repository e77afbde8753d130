"""The table of children, where a mold names the worker that it has forked: early, late, twice, or a process of others."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest

from django_workerguard.arbiter.children import CannotStartError, Children, MoldUnreachableError
from django_workerguard.arbiter.event_log import EventLog
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.final_kill import kill_and_collect
from django_workerguard.arbiter.molds import Channels, Molds
from django_workerguard.arbiter.seats import Seats
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import LARGEST_WORD, Layout, Orders, Seat, SeatKind

MOLD = 7  # a seat


class Fork:
    """A server that records the workers that have arrived."""

    orders = Orders.NONE

    def __init__(self) -> None:
        self.arrivals: list[int] = []

    def ask(self, mold, start):
        return object()

    def arrived(self, pid, worker):
        self.arrivals.append(pid)


@pytest.fixture
def fork():
    return Fork()


@pytest.fixture
def children(fork):
    board = Board.create(Layout(seats=4, slots=2), None)
    seats = Seats(board)
    children = Children(seats, fork, EventLog(board, logging.getLogger("test")), mold_fork=fork)
    children.seats, children.board = seats, board
    yield children
    board.close()


@pytest.fixture
def process():
    """A child of this process."""
    started = subprocess.Popen(["sleep", "60"])
    yield started
    started.kill()
    started.wait()


def asked(children: Children) -> int:
    start = children.reserve(SeatKind.WORKER, 1, 1, Orders.NONE)
    children.ask(MOLD, start)
    assert children.seats.word(start.seat, Seat.PID) == 0, "no process has this seat yet"
    return start.seat


def test_a_worker_that_its_mold_has_named_is_registered_in_its_seat(children, fork, process):
    seat = asked(children)
    child = children.arrived(seat, process.pid)
    assert (child.seat, fork.arrivals) == (seat, [process.pid])
    assert children.seats.word(seat, Seat.PID) == process.pid
    assert children.asked_of(MOLD) == []


def test_a_worker_that_ends_before_its_mold_has_named_it_is_buried_all_the_same(children, process):
    seat = asked(children)
    process.kill()
    process.wait()
    children.ended(process.pid, Exit(None, signal.SIGKILL))
    assert children.dead() == [], "it is not known yet"
    children.arrived(seat, process.pid)
    ((child, end),) = children.dead()
    assert (child.seat, end.signal) == (seat, signal.SIGKILL)
    children.forget(child)
    assert children.seats.pids == {}


def test_the_end_of_a_stranger_is_kept_only_while_a_worker_is_asked_for(children, process):
    children.ended(99, Exit(0, None))
    seat = asked(children)
    with pytest.raises(CannotStartError):
        children.arrived(seat, 99)
    children.ended(98, Exit(0, None))
    children.arrived(seat, process.pid)
    seat = asked(children)
    with pytest.raises(CannotStartError):
        children.arrived(seat, 98)


def test_a_process_that_is_no_child_of_the_arbiter_is_refused(children):
    """The mold runs the site's code: the arbiter must never send signals to what it names."""
    seat = asked(children)
    for pid in (1, os.getppid(), os.getpid(), 2**31, 2**80, 0, -5):
        with pytest.raises(CannotStartError, match="not a new child"):
            children.arrived(seat, pid)
    children.did_not_arrive(seat)
    assert children.seats.pids == {}


def test_a_child_that_has_a_seat_is_not_given_a_second_one(children, process):
    children.arrived(asked(children), process.pid)
    with pytest.raises(CannotStartError, match="not a new child"):
        children.arrived(asked(children), process.pid)


def test_a_worker_that_did_not_arrive_gives_its_seat_back(children):
    open_before = len(os.listdir("/proc/self/fd"))
    seat = asked(children)
    assert [start.seat for start in children.asked_of(MOLD)] == [seat]
    children.did_not_arrive(seat)
    assert children.asked_of(MOLD) == []
    assert children.seats.pids == {}
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_hook_that_raises_is_not_the_fault_of_the_mold(children, fork, monkeypatch):
    def refuse(mold, start):
        raise raised

    monkeypatch.setattr(fork, "ask", refuse)
    for raised, kind in (
        (RuntimeError("the pre_fork hook"), CannotStartError),
        (MoldUnreachableError("Broken pipe"), MoldUnreachableError),
    ):
        with pytest.raises(CannotStartError, match=str(raised)) as caught:
            children.ask(MOLD, children.reserve(SeatKind.WORKER, 1, 1, Orders.NONE))
        assert caught.type is kind
    assert (children.seats.pids, children.asked_molds()) == ({}, set())


def test_what_was_asked_of_a_mold_that_has_become_a_worker_is_given_up(children):
    tracker = Tracker(children.board, logging.getLogger("test"), Policy(load="auto"), target=2)
    tracker.tell(m.MoldSpawned(MOLD, 500, 1, 60.0, 0.0))
    start = children.reserve(SeatKind.WORKER, 2, 1, Orders.NONE)
    tracker.spawning(a.Spawn(2, 1, 60.0, mold=MOLD), start.seat, 1.0)
    children.ask(MOLD, start)
    molds = Molds(tracker, children, Channels())
    molds.receive(2.0)
    assert children.asked_molds() == {MOLD}, "it may still answer"
    tracker.tell(m.Converted(MOLD, 1, 2.0, Reason(Rule.UNFIT, "a thread")))
    molds.receive(2.0)
    assert children.asked_molds() == set()
    assert tracker.fleet.all_in_slot(2) == []
    assert tracker.fleet.record(2).not_spawned == 0, "the slot is not to blame"


def test_a_mold_that_has_damaged_its_counter_of_forks_can_fork_on(children):
    board = children.seats._board
    children.seats.pids[0] = 100
    word = board.layout.seat(0) + Seat.FORKS
    board.words[word] = LARGEST_WORD
    children.seats.forked(1, 0)
    assert board.words[word] == LARGEST_WORD


@pytest.fixture
def denied(monkeypatch):
    """Pids to which the kernel refuses every signal, as it does of a child that has become another user's."""
    refused, kill = set(), os.kill

    def kill_others(pid, number):
        if pid in refused:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", kill_others)
    yield refused
    refused.clear()


@pytest.fixture
def other_process():
    started = subprocess.Popen(["sleep", "60"])
    yield started
    started.kill()
    started.wait()


def test_a_child_that_may_not_be_signalled_keeps_no_signal_from_the_others(
    children, process, other_process, denied
):
    for one in (process, other_process):
        children.arrived(asked(children), one.pid)
    denied.add(process.pid)
    children.signal_all(signal.SIGTERM)
    assert other_process.wait(10) == -signal.SIGTERM


def test_a_stray_is_killed_once_and_keeps_no_other_alive(children, process, other_process, denied, caplog):
    for one in (process, other_process):
        children.arrived(asked(children), one.pid)
    denied.add(process.pid)
    children.kill_strays(())
    children.kill_strays(())
    assert other_process.wait(10) == -signal.SIGKILL
    assert len(caplog.records) == 1, "each stray is sent one signal"


@pytest.mark.parametrize("which", [0, 1])
def test_at_the_end_a_child_that_may_not_be_killed_keeps_no_other_alive(
    process, other_process, denied, which
):
    pids = [process.pid, other_process.pid]
    denied.add(pids.pop(which))
    kill_and_collect([*denied, *pids], patience=1.0)
    assert not Path(f"/proc/{pids[0]}").exists()
