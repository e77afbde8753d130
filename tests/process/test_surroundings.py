"""What a start inherits, and what the settings leave in the process of manage.py: neither reaches or stops the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.harness import ROOT
from tests.process.shop import reloads

CLOSED = {"input": "<&-", "output": ">&-", "error": "2>&-", "all three": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED.keys())
def test_closed_standard_streams(shop, closed):
    """Nothing that the server opens gets their numbers, so nothing is printed into it."""
    shop.make(settings='    FILE = open(HERE / "file", "a")\n    print("hello")\n')
    server = shop.start(prefix=("sh", "-c", f'exec "$@" {closed}', "sh"))
    for pid in (server.arbiter, *server.pids()):
        opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
        assert not set(opened) - {os.devnull, str(server.log_path)}
    assert server.get("/").body == "one"
    shop.change("shop/settings.py", '"one"', '"two"')
    assert reloads(server) == "two"
    assert server.stop() == 0
    assert Path(shop.directory, "file").read_text() == ""


def test_commands_with_closed_standard_streams(serve):
    server = serve(workers=1)
    server.wait_ready()
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "django_workerguard.cli")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "WORKERGUARD_RUN_DIR": str(server.run_dir)}
    for command in (("probe", "ready"), ("status",)):
        ended = subprocess.run([*closed, *command], cwd=server.project, env=environ, timeout=60)
        assert ended.returncode == 0, command
