"""The arbiter as process 1: it gets the signals, collects orphans, and the probe finds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.components import leave_out
from tests.process.harness import ROOT, UNSHARE


@pytest.fixture(params=["lazy", "mold"])
def container(serve, request):
    if subprocess.run((*UNSHARE, "true"), capture_output=True).returncode:
        leave_out("a PID namespace of its own needs rights that this user does not have")
    server = serve("--load", request.param, prefix=UNSHARE)
    server._poll("ready", lambda: "All 2 workers are ready" in server.log, 60)
    yield server
    if server.process.poll() is None:
        os.kill(inside(server), signal.SIGTERM)  # a signal to `unshare` itself would not reach it


def inside(server) -> int:
    """Return the pid, as seen from outside, of the arbiter that is process 1 inside."""
    children = f"/proc/{server.arbiter}/task/{server.arbiter}/children"
    with open(children) as file:
        return int(file.read().split()[0])


def enter(server, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(server.run_dir)}
    return subprocess.run(
        ["nsenter", "--target", str(inside(server)), "--pid", "--mount", *command],
        env=environ,
        capture_output=True,
        text=True,
    )


def test_process_1_collects_orphans_and_the_probe_finds_it(container):
    assert "(1)" in container.log, "its own pid is 1"
    for _ in range(5):
        orphan = "import os, time\nif os.fork() == 0:\n time.sleep(0.3)\n os._exit(0)\n"
        assert enter(container, sys.executable, "-c", orphan).returncode == 0
    probe = (sys.executable, "-m", "django_workerguard.cli", "probe")
    for kind in ("live", "ready", "startup"):
        told = enter(container, *probe, kind)
        assert told.returncode == 0, told.stderr
    container._poll("no zombie is left", lambda: "<defunct>" not in enter(container, "ps", "ax").stdout, 20)


def status(container) -> dict:
    """Return the status, with pids as seen from inside."""
    told = enter(container, sys.executable, "-m", "django_workerguard.cli", "status", "--json")
    return json.loads(told.stdout)


def test_a_worker_that_dies_is_replaced(container):
    before = status(container)
    gone = before["slots"][1]["pid"]
    assert enter(container, "kill", "-KILL", str(gone)).returncode == 0

    def is_replaced() -> bool:
        now = status(container)
        return now["ready"] == 2 and now["slots"][1]["pid"] != gone

    container._poll("its successor", is_replaced, 60)
    after = status(container)
    assert after["slots"][0]["pid"] == before["slots"][0]["pid"]
    assert after["slots"][1]["mold"] == (before["mold"] and before["mold"]["pid"])
    assert container.statuses(6) == {200: 6}


def test_process_1_stops_on_a_signal_from_outside(container):
    os.kill(inside(container), signal.SIGTERM)
    assert container.wait_exit() == 0
    assert "Shutting down" in container.log
