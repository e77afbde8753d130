"""The list at the health path, and the checks for django-health-check."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest
from django.test import Client, override_settings

from django_workerguard import views
from django_workerguard.contrib.health_check import (
    ArbiterAlive,
    FleetReady,
    GuardHealthView,
    LooplessHealthView,
    WorkerLoaded,
    run_without_loop,
)
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout, Seat, SeatState
from django_workerguard.worker import current
from django_workerguard.worker.current import CurrentWorker


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


class Closed(GuardHealthView):
    """django-health-check's view from 4.9 on, as far as it decides about the token."""

    def is_authorized(self, request) -> bool:
        return request.headers.get("Authorization") == "Bearer of-the-view"


@pytest.mark.parametrize(
    ("base", "token"), [(Closed, "of-the-view"), (GuardHealthView, "of-the-setting")], ids=["new", "old"]
)
def test_the_list_without_an_event_loop_honours_the_token(rf, worker, monkeypatch, base, token):
    monkeypatch.setattr("django_workerguard.contrib.health_check.GuardHealthView", base)
    view = LooplessHealthView.as_view()
    with override_settings(HEALTH_CHECK_AUTH_TOKEN="of-the-setting"):
        statuses = [
            view(rf.get("/health/", headers=headers)).status_code
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {token}"})
        ]
    assert statuses == [403, 403, 200]


def test_django_health_check_is_imported_when_the_list_is_first_asked_for(tmp_path):
    """Its views take 2.7 MB, and the probes do without it."""
    code = """
        import sys
        from django.conf import settings
        settings.configure(ROOT_URLCONF="django_workerguard.urls", ALLOWED_HOSTS=["*"])
        import django
        from django.core.wsgi import get_wsgi_application
        application = get_wsgi_application()
        from django.test import Client
        from django.urls import get_resolver
        get_resolver().url_patterns
        Client().get("/ready/")
        print("health_check" in sys.modules)
        assert b"WorkerLoaded" in Client().get("/").content
        print("health_check" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_a_django_health_check_that_cannot_be_imported_leaves_the_short_list(rf, monkeypatch):
    monkeypatch.setitem(sys.modules, "django_workerguard.contrib.health_check", None)
    monkeypatch.delattr("django_workerguard.contrib.health_check")
    views._full_list.cache_clear()
    try:
        response = views.health(rf.get("/health/"))
    finally:
        views._full_list.cache_clear()
    assert (response.status_code, response.content) == (200, b"live: OK\nready: OK\nstartup: OK\n")
