"""GuardMiddleware in Django's own test client: another server than serve_guarded."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import MiddlewareNotUsed
from django.test import AsyncClient, Client, override_settings

from django_workerguard import middleware
from django_workerguard.access import may_see_metrics
from django_workerguard.middleware import GuardMiddleware
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.worker import current
from django_workerguard.worker.current import CurrentWorker

PROBE = "tests.integration.probes:fail"


@pytest.fixture
def broken():
    """A project whose load probe fails."""
    with override_settings(WORKERGUARD={"LOAD_PROBE": [PROBE]}):
        yield


def test_a_loaded_worker_answers(client: Client):
    assert client.get("/").content == b"index\n"


def test_a_loaded_worker_answers_asynchronously(async_client: AsyncClient):
    response = async_to_sync(async_client.get)("/")
    assert response.content == b"index\n"


@pytest.mark.parametrize(
    ("accept", "mime"), [("text/html", "text/plain; charset=utf-8"), ("application/json", "application/json")]
)
def test_an_unloaded_worker_answers_503_and_never_reaches_the_view(broken, client, caplog, accept, mime):
    response = client.get("/", headers={"accept": accept})
    assert (response.status_code, response["Content-Type"]) == (503, mime)
    assert int(response["Retry-After"]) >= 1
    assert "probe says no" in caplog.text


def test_an_unloaded_worker_answers_503_asynchronously(broken, async_client):
    response = async_to_sync(async_client.get)("/")
    assert response.status_code == 503


def test_the_probes_of_an_unloaded_worker(broken, client):
    assert client.get("/health/live/").status_code == 200
    assert client.get("/health/ready/").status_code == 503
    assert client.get("/health/startup/").status_code == 503


def test_the_failure_is_logged_with_its_traceback_once(broken, client, caplog):
    caplog.set_level(logging.ERROR)
    for _ in range(5):
        client.get("/")
    assert caplog.text.count("Traceback") == 1


def test_a_part_that_cannot_be_loaded_and_may_never_be_used_is_logged(client, caplog):
    with override_settings(STORAGES={"default": {"BACKEND": "no_such_storage.Storage"}}):
        assert client.get("/").status_code == 200
    assert (
        "STORAGES: default cannot be loaded in step lazy and is left out: InvalidStorageError" in caplog.text
    )


def test_a_worker_heals_when_the_next_try_passes(client, monkeypatch):
    with override_settings(WORKERGUARD={"LOAD_PROBE": ["tests.integration.probes:fail_once"]}):
        monkeypatch.setattr("django_workerguard.middleware.FIRST", 0.0)
        assert client.get("/").status_code == 503
        assert client.get("/").status_code == 200


def test_probes_come_before_allowed_hosts_and_redirects(client):
    with override_settings(ALLOWED_HOSTS=["example.com"], SECURE_SSL_REDIRECT=True):
        response = client.get("/health/live/", headers={"host": "10.1.2.3"})
    assert response.status_code == 200


def test_details_are_for_clients_with_the_token(client):
    url = "/health/ready/"
    assert client.get(url).content == b"ok\n"
    assert client.get(url, headers={"authorization": "Bearer wrong"}).content == b"ok\n"
    assert (
        client.get(url, headers={"authorization": "Bearer the-health-token"}).content
        == b"ok: this worker is loaded\n"
    )
    assert client.get(url, headers={"authorization": "Basic the-health-token"}).content == b"ok\n"


def test_without_a_token_nobody_has_it(client):
    with override_settings(WORKERGUARD={}):
        assert client.get("/health/ready/", headers={"authorization": "Bearer "}).content == b"ok\n"


def test_under_serve_guarded_it_takes_itself_out_of_the_chain():
    board = Board.create(Layout(seats=1, slots=1), None)
    current.set_current_worker(CurrentWorker(slot=1, pid=1, generation=1, seat=0, board=board))
    try:
        with pytest.raises(MiddlewareNotUsed):
            GuardMiddleware(lambda request: None)
    finally:
        current.set_current_worker(None)
        board.close()


@pytest.mark.django_db
def test_the_load_leaves_a_connection_alone_that_was_open(client):
    from django.contrib.auth import get_user_model
    from django.db import connection

    get_user_model().objects.create(username="somebody")
    raw = connection.connection
    assert client.get("/").status_code == 200
    assert connection.connection is raw
    assert get_user_model().objects.count() == 1


def test_the_token_is_looked_at_before_the_user():
    """The user of a session is read from the database, which a probe must not need."""

    class Request:
        META: ClassVar = {"HTTP_AUTHORIZATION": "Bearer the-health-token"}

        @property
        def user(self):
            raise AssertionError("the user was asked for")

    assert may_see_metrics(Request())


def test_processes_that_fail_together_do_not_try_again_together(monkeypatch):
    monkeypatch.setattr(middleware.time, "monotonic", lambda: 100.0)
    gates = [middleware.Gate() for _ in range(4)]
    for gate in gates:
        gate._failed(ValueError("no"))
    assert len({gate.next_try for gate in gates}) == 4
