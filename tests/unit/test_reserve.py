"""The memory around a load: the reserve is given back in every case, and the parent's pages stay shared."""

from __future__ import annotations

import gc
import mmap

import pytest

from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.worker import current, load
from django_workerguard.worker.seat_handle import SeatHandle


@pytest.fixture
def handle():
    board = Board.create(Layout(seats=1, slots=1), None)
    handle = SeatHandle(
        board=board,
        seat=0,
        slot=1,
        generation=1,
        wake_fd=-1,
        dump_fd=-1,
        request=LoadRequest(),
        options=GuardOptions(),
    )
    yield handle
    gc.unfreeze()
    current.set_current_worker(None)
    board.close()


@pytest.fixture
def reserves(monkeypatch):
    made = []

    class Recorded(mmap.mmap):
        def __init__(self, *_, **__):
            made.append(self)

    monkeypatch.setattr(load.mmap, "mmap", Recorded)
    return made


def test_the_reserve_is_given_back_after_a_load_although_its_frame_is_kept(handle, reserves):
    def work(sentinel, reporter):
        assert not reserves[0].closed
        try:
            raise ValueError("the project keeps this, and with it every frame of the load")
        except ValueError as error:
            return error

    kept = load.attempt(handle, work)
    assert kept.__traceback__ is not None
    assert [(reserve.closed, len(reserves)) for reserve in reserves] == [(True, 1)]


def test_the_reserve_is_given_back_before_a_failure_is_reported(handle, reserves, monkeypatch):
    def work(sentinel, reporter):
        raise MemoryError

    closed = []
    monkeypatch.setattr(load, "record_failure", lambda *_: closed.append(reserves[0].closed))
    with pytest.raises(MemoryError):
        load.attempt(handle, work)
    assert closed == [True]


def test_a_load_goes_on_without_a_reserve(handle, monkeypatch):
    def none_left(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(load.mmap, "mmap", none_left)
    assert load.attempt(handle, lambda sentinel, reporter: "loaded") == "loaded"


def test_what_came_from_the_parent_is_out_of_the_collectors_sight(handle):
    gc.unfreeze()
    assert load.attempt(handle, lambda sentinel, reporter: gc.get_freeze_count()) > 1000
