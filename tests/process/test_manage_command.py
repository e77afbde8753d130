"""`manage.py workerguard` is the same command as `workerguard`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import PROJECT, ROOT


@pytest.fixture
def manage(serve):
    server = serve()
    server.wait_ready()
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "guinea_settings",
        "WORKERGUARD_RUN_DIR": str(server.run_dir),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", "workerguard", *arguments]
        return subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60)

    return run


def test_what_it_tells(manage):
    assert "2 of 2 ready" in manage("status").stdout
    assert json.loads(manage("status", "--json").stdout)["ready"] == 2
    assert manage("probe", "ready").returncode == ExitCode.OK
    assert manage("explain", "1").stdout.startswith("slot 1: ready")
    assert '"event": "started"' in manage("events", "--json").stdout
    assert manage("recycle", "1", "--wait").returncode == ExitCode.OK


def test_what_is_no_command(manage):
    outcome = manage("dance")
    assert outcome.returncode == ExitCode.USAGE
    assert "Traceback" not in outcome.stderr
