"""ASGI: a failed lifespan start is a failed load, an application without lifespan is not."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.harness import assert_answered_by

ASGI = ["asgi", "uvicorn_worker.UvicornWorker"]


@pytest.mark.parametrize("worker_class", ASGI)
@pytest.mark.parametrize("kind", ["says-failed", "raises", "hangs", "exits"])
def test_a_failed_lifespan_is_a_failed_load(serve, faults, worker_class, kind):
    server = serve(
        "-k",
        worker_class,
        "--app",
        "guinea_asgi:application",
        "--load-timeout",
        "5s" if kind == "hangs" else "60s",
    )
    server.wait_ready()
    victim, survivor = server.pids()
    faults.set("lifespan", kind, 2)

    os.kill(victim, signal.SIGKILL)
    failed = server.wait_event("load-failed", count=2)
    assert kind != "hangs" or failed["type"] == "load-timeout", failed

    assert_answered_by(server, {survivor}, failed)
    server.wait_ready()
    assert server.stop() == 0


@pytest.mark.parametrize("worker_class", ASGI)
def test_an_application_without_lifespan_is_served(serve, worker_class):
    server = serve("-k", worker_class)
    server.wait_ready()
    assert server.statuses(5) == {200: 5}
    assert not server.events("load-failed")


@pytest.mark.parametrize("worker_class", ASGI)
def test_an_application_that_does_not_know_the_scope_and_receives_first_is_served(
    serve, faults, worker_class
):
    faults.set("lifespan", "peeks")
    server = serve("-k", worker_class, "--app", "guinea_asgi:application")
    server.wait_ready(timeout=20)
    assert server.statuses(5) == {200: 5}
    assert not server.events("load-failed")


@pytest.mark.parametrize("application", ["guinea_plain_asgi", "guinea_asgi"])
def test_an_application_without_lifespan_fails_if_it_needs_one(serve, faults, application):
    faults.set("lifespan", "peeks")
    server = serve(
        *("--app", f"{application}:application", "--need-app", "off"),
        *("--", "-k", "asgi", "--asgi-lifespan", "on"),
    )
    server.wait_event("load-failed", count=2)


@pytest.mark.parametrize("worker_class", ASGI)
def test_a_lifespan_that_starts_is_served_and_ended(serve, worker_class):
    server = serve("-k", worker_class, "--app", "guinea_asgi:application")
    server.wait_ready()
    assert server.statuses(5) == {200: 5}
    assert server.stop() == 0
    assert server.log.count("lifespan ended") == 2
