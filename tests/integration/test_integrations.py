"""What plugs into other packages: a panel of django-debug-toolbar, a backend of django-prodserver."""

from __future__ import annotations

from types import ModuleType

import pytest
from django.conf import settings
from django.core.management import load_command_class
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

from django_workerguard.management.commands import serve_guarded
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout, Seat, SeatState, Slot, SlotState
from django_workerguard.worker import current
from django_workerguard.worker.current import CurrentWorker

WITH_TOOLBAR = {
    "DEBUG": True,
    "INTERNAL_IPS": ["127.0.0.1"],
    "INSTALLED_APPS": [*settings.INSTALLED_APPS, "debug_toolbar"],
    "MIDDLEWARE": ["debug_toolbar.middleware.DebugToolbarMiddleware"],
    "DEBUG_TOOLBAR_PANELS": ["django_workerguard.contrib.debug_toolbar.WorkerPanel"],
    "DEBUG_TOOLBAR_CONFIG": {"RENDER_PANELS": True, "SHOW_TOOLBAR_CALLBACK": lambda request: True},
}


def page_with_toolbar() -> str:
    with override_settings(**WITH_TOOLBAR):
        addresses = ModuleType("addresses")  # the toolbar's models want the toolbar installed
        addresses.urlpatterns = [
            path("__debug__/", include("debug_toolbar.urls")),
            path("page/", lambda request: HttpResponse("<html><body><p>a page</p></body></html>")),
        ]
        with override_settings(ROOT_URLCONF=addresses):
            return Client().get("/page/").content.decode()


@pytest.fixture
def worker():
    board = Board.create(Layout(seats=1, slots=3), None)
    board.words[board.layout.seat(0) + Seat.STATE] = SeatState.READY
    board.words[board.layout.seat(0) + Seat.PID] = 4321
    board.words[board.layout.slot(3) + Slot.SEAT] = 1
    board.words[board.layout.slot(3) + Slot.STATE] = SlotState.READY
    for slot in (1, 2, 3):
        board.words[board.layout.slot(slot) + Slot.REQUESTS] = slot * 100
    board.words[Header.TARGET] = 3
    yield CurrentWorker(slot=3, pid=4321, generation=7, seat=0, board=board)
    current.set_current_worker(None)
    board.close()


@pytest.mark.django_db
def test_the_panel_shows_the_worker_that_has_answered(worker):
    current.set_current_worker(worker)
    shown = page_with_toolbar()
    assert "a page" in shown
    assert "slot 3, generation 7" in shown
    assert "4321" in shown
    assert "<td>300</td>" in shown


@pytest.mark.django_db
def test_the_panel_says_where_there_is_no_worker():
    shown = page_with_toolbar()
    assert "This process is no worker of serve_guarded." in shown


def test_the_backend_hands_its_arguments_to_serve_guarded(monkeypatch):
    seen = []
    monkeypatch.setattr(serve_guarded, "launch", seen.append)
    processes = {
        "web": {
            "BACKEND": "django_workerguard.contrib.prodserver.GuardedServer",
            "ARGS": {"bind": "127.0.0.1:8123", "load-retries": "7", "check": None},
        }
    }
    with override_settings(
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "django_prodserver"], PRODUCTION_PROCESSES=processes
    ):
        load_command_class("django_prodserver", "server").run_from_argv(["manage.py", "server", "web"])
    (handover,) = seen
    assert handover.action == "check"
    assert handover.server == {"bind": ["127.0.0.1:8123"]}
    assert handover.guard == {"load_retries": "7"}
