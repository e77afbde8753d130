"""What shows a board in a process that is no worker of serve_guarded: the list of checks, metrics, dashboard."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_workerguard.middleware import GuardMiddleware
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout, Seat, Slot, SlotState
from django_workerguard.worker import current


@pytest.fixture
def board():
    board = Board.create(Layout(seats=1, slots=2), None)
    for word, value in ((Header.TARGET, 1), (Header.READY, 1), (Header.QUORUM, 1), (Header.PHASE, 1)):
        board.words[word] = value
    board.words[Header.BEAT] = monotonic_ns()
    board.words[board.layout.seat(0) + Seat.PID] = 4321
    board.words[board.layout.slot(1) + Slot.SEAT] = 1
    board.words[board.layout.slot(1) + Slot.STATE] = SlotState.READY
    current.set_board_source(lambda: board)
    yield board
    current.set_board_source(None)
    board.close()


def list_of_checks(client):
    return client.get("/health/", headers={"accept": "application/json"})


def test_the_list_of_checks(client, board):
    assert list_of_checks(client).status_code == 200
    board.words[Header.READY] = 0
    assert "Fewer workers are ready" in list_of_checks(client).json()["FleetReady()"]
    board.words[Header.READY] = 1
    board.words[Header.BEAT] = monotonic_ns() - 60 * 10**9
    assert "does not tick" in list_of_checks(client).json()["ArbiterAlive()"]


def test_before_there_is_a_board_all_is_well(client, board):
    current.set_board_source(lambda: None)
    assert list_of_checks(client).status_code == 200


@pytest.mark.parametrize("kind", ["live", "ready", "startup"])
def test_the_probes_describe_only_the_worker_that_answers(client, board, kind):
    board.words[Header.READY] = 0
    board.words[Header.BEAT] = 1
    assert client.get(f"/health/{kind}/").status_code == 200


def test_the_middleware_stays_in_the_chain(board):
    GuardMiddleware(lambda request: None)


@pytest.mark.django_db
def test_the_dashboard_has_no_buttons(board):
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    for page in ("", "slot/1/"):
        response = client.get(f"/guard/{page}")
        assert response.status_code == 200
        text = response.content.decode()
        assert "4321" in text
        assert "wg-button" not in text
    for action in ("reload/", "slot/1/recycle/"):
        assert client.post(f"/guard/{action}").status_code == 404
    assert client.get("/guard/slot/9/").status_code == 404


def test_the_metrics(board):
    from django_workerguard.contrib.prometheus import WorkerguardCollector

    ready = next(one for one in WorkerguardCollector().collect() if one.name == "workerguard_ready_workers")
    assert [sample.value for sample in ready.samples] == [1]
