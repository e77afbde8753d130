"""Probes of a site behind a prefix: with the pod's Host, answered by the guard, and not counted as requests."""

from __future__ import annotations

import os
import signal

import pytest

PROBER = {"Host": "10.0.0.7"}
FAMILIES = {
    "SCRIPT_NAME": (("-k", "gthread"), {"SCRIPT_NAME": "/app"}),
    "root-path": (("-k", "asgi", "--", "--root-path", "/app/"), {}),
    "uvicorn": (("-k", "guinea_prefix.Worker"), {}),
}
UVICORN = (
    "from uvicorn_worker import UvicornWorker\n"
    "class Worker(UvicornWorker):\n    CONFIG_KWARGS = {'root_path': '/app'}\n"
)

HTTPS = (
    "from guinea_settings import *\n"
    "MIDDLEWARE = [*MIDDLEWARE, 'django.middleware.security.SecurityMiddleware']\n"
    "SECURE_SSL_REDIRECT = True\n"
)


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def behind_prefix(request, serve, tmp_path):
    """Start a server of one family behind the prefix /app, of a site that redirects every request to https."""
    arguments, environ = request.param
    (tmp_path / "guinea_prefix.py").write_text(UVICORN)
    (tmp_path / "https_settings.py").write_text(HTTPS)

    def start(*more: str):
        place = "--pythonpath", str(tmp_path), "--settings", "https_settings"
        return serve(*more, *place, *arguments, environ=environ)

    return start


def test_probes_behind_a_prefix(behind_prefix):
    server = behind_prefix()
    server.wait_ready()
    for kind in ("live", "ready", "startup"):
        assert server.get(f"/app/health/{kind}/", headers=PROBER).status == 200

    def counted(status):
        return sum(slot["requests"] + slot["in_flight"] for slot in status["slots"])

    # the last probe is in flight until gunicorn's hook has run, which may be after the client has the answer
    server.wait("no probe is counted", lambda status: counted(status) == 0)
    assert server.get("/app/applications/health/live/", headers=PROBER).status == 400
    assert server.get("/app/applications/health/live/").status == 301


def test_probes_of_a_server_without_a_ready_worker(behind_prefix, faults):
    """A liveness probe that fails then would have the container restarted, which repairs nothing."""
    server = behind_prefix("--stand-in-after", "0", "--load-retries", "1000")
    server.wait_ready()
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    server.wait("the stand-in", lambda status: status["stand_in"] and not status["ready"])
    assert server.get("/app/health/live/", headers=PROBER).status == 200
    assert server.get("/app/health/ready/", headers=PROBER).status == 503
