"""The list at the health path, and the checks for django-health-check."""

from __future__ import annotations

import asyncio

import pytest
from django.test import Client, override_settings

from django_workerguard import current
from django_workerguard.contrib.health_check import (
    ArbiterAlive,
    FleetReady,
    LooplessHealthView,
    WorkerLoaded,
    run_without_loop,
)
from django_workerguard.current import CurrentWorker
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout, Seat, SeatState


@pytest.fixture
def worker():
    """A guarded worker on a board that the test can write."""
    board = Board.create(Layout(seats=1, slots=2), None)
    board.words[Header.BEAT] = monotonic_ns()
    board.words[Header.TARGET] = 2
    board.words[Header.READY] = 2
    board.words[Header.QUORUM] = 1
    board.words[Header.PHASE] = 1
    worker = CurrentWorker(slot=1, pid=1, generation=1, seat=0, board=board)
    board.words[board.layout.seat(0) + Seat.STATE] = SeatState.READY
    current.set_current_worker(worker)
    yield worker
    current.set_current_worker(None)
    board.close()


@pytest.mark.parametrize("accept", ["*/*", "text/html", "text/plain", "application/json"])
def test_the_full_list(client: Client, accept):
    response = client.get("/health/", headers={"accept": accept})
    assert response.status_code == 200
    assert b"WorkerLoaded" in response.content


@pytest.mark.parametrize("changed", [{"TEMPLATES": []}, {"INSTALLED_APPS": ["django_workerguard"]}])
def test_the_full_list_where_html_cannot_be_rendered(client, changed):
    with override_settings(MIDDLEWARE=[], **changed):
        response = client.get("/health/", headers={"accept": "*/*"})
    assert (response.status_code, response["Content-Type"]) == (200, "text/plain; charset=utf-8")


def test_the_list_is_500_when_a_check_fails(client, worker):
    worker.board.words[Header.READY] = 0
    response = client.get("/health/", headers={"accept": "application/json"})
    assert response.status_code == 500
    assert "Fewer workers are ready" in response.json()["FleetReady()"]


def check_fails(check) -> bool:
    result = asyncio.run(check.get_result())
    same = run_without_loop(check)
    assert bool(result.error) is bool(same.error), "with and without a loop it says the same"
    return bool(result.error)


def test_worker_loaded(worker):
    assert not check_fails(WorkerLoaded())
    worker.board.words[worker.board.layout.seat(0) + Seat.STATE] = SeatState.LOADING
    assert check_fails(WorkerLoaded())


def test_fleet_ready(worker):
    assert not check_fails(FleetReady())
    assert not check_fails(FleetReady(min_ready=2))
    assert check_fails(FleetReady(min_ready=3))
    assert repr(FleetReady(min_ready=3)) == "FleetReady()", "thresholds are no labels of metrics"


def test_arbiter_alive(worker):
    assert not check_fails(ArbiterAlive())
    worker.board.words[Header.BEAT] = monotonic_ns() - 60 * 10**9
    assert check_fails(ArbiterAlive())


def test_outside_a_guarded_server_the_checks_pass():
    assert not any(check_fails(check) for check in (WorkerLoaded(), FleetReady(), ArbiterAlive()))


def test_the_list_without_an_event_loop(rf, worker):
    view = LooplessHealthView.as_view()
    assert view(rf.get("/health/")).status_code == 200
    worker.board.words[Header.READY] = 0
    response = view(rf.get("/health/", headers={"accept": "application/json"}))
    assert response.status_code == 500
