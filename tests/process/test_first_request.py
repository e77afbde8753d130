"""Loaded means loaded: the first request to every worker imports no module, on each worker class."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from django_workerguard.scoreboard.layout import Seat
from tests.process.harness import ROOT, TIMEOUT, Server

CONF = Path(__file__).parent / "imports_conf.py"
EXAMPLE = ROOT / "example_project"


def imported_after_ready(server: Server, record: Path) -> set[str]:
    """Return what each worker has imported since it began to accept."""
    with server.board() as board:
        at = [board.layout.seat(index) for index in range(board.layout.seats)]
        ready = {board.words[seat + Seat.PID]: board.words[seat + Seat.READY] for seat in at}
    late = set()
    for line in record.read_text().splitlines():
        pid, stamp, name = line.split()
        if int(stamp) > ready.get(int(pid), sys.maxsize):
            late.add(name)
    return late


def ask_every_worker(server: Server, path: str) -> None:
    before = {slot["slot"]: slot["requests"] for slot in server.status()["slots"]}
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        assert server.get(path).status < 500
        now = {slot["slot"]: slot["requests"] for slot in server.status()["slots"]}
        if all(now[slot] > before[slot] for slot in now):
            return
    raise AssertionError("a worker was never asked")


@pytest.mark.parametrize("path", ["/page", "/stream?lines=1"])
def test_the_first_request_imports_nothing(worker_class, serve, tmp_path, path):
    record = tmp_path / "imports"
    server = serve("-k", worker_class, "-c", str(CONF), environ={"IMPORTS_FILE": str(record)})
    server.wait_ready()
    ask_every_worker(server, path)
    assert imported_after_ready(server, record) == set()


def test_the_first_pages_of_a_real_site_import_nothing(worker_class, serve, tmp_path):
    """Templates, database, sessions, static files, forms and the admin, without any warm-up request."""
    record = tmp_path / "imports"
    environ = {
        "IMPORTS_FILE": str(record),
        "DJANGO_SETTINGS_MODULE": "site_config.settings",
        "EXAMPLE_DATABASE": str(tmp_path / "db.sqlite3"),
        "EXAMPLE_FAULTS": str(tmp_path / "no-faults"),
    }
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=EXAMPLE,
        env={**os.environ, **environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    server = serve("-k", worker_class, "-c", str(CONF), "--warmup-path", "", project=EXAMPLE, environ=environ)
    server.wait_ready()
    for path in ("/", "/books/", "/admin/login/", "/admin/", "/static/catalogue/site.css", "/no-such-page"):
        ask_every_worker(server, path)
    assert imported_after_ready(server, record) == set()
