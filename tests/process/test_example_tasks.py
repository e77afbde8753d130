"""The example site's tasks: on its own broker, which is a directory, as the how-to tells."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.process.harness import ROOT, TIMEOUT

EXAMPLE = ROOT / "example_project"


@dataclass
class Example:
    """The example project in a directory of its own for database, broker and faults."""

    environ: dict[str, str]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, *arguments)
        return subprocess.run(
            command, cwd=EXAMPLE, env=self.environ, capture_output=True, text=True, timeout=2 * TIMEOUT
        )

    def ready(self) -> list[int]:
        """Return the pids of the ready children, as `workerguard status` shows them."""
        shown = self.run("-m", "django_workerguard.cli", "status", "--celery").stdout
        return [int(pid) for pid in re.findall(r"^\d+ +ready +(\d+)", shown, re.MULTILINE)]

    def wait_ready(self, count: int) -> list[int]:
        deadline = time.monotonic() + TIMEOUT
        while len(found := self.ready()) != count:
            assert time.monotonic() < deadline, self.run("-m", "django_workerguard.cli", "status").stdout
        return found


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "WORKERGUARD"))}
    example = Example(
        {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "EXAMPLE_DATABASE": str(tmp_path / "db.sqlite3"),
            "EXAMPLE_BROKER_DIR": str(tmp_path / "broker"),
            "EXAMPLE_FAULTS": str(tmp_path / "faults"),
            "RUNTIME_DIRECTORY": str(tmp_path),
        }
    )
    migrated = example.run("manage.py", "migrate", "--verbosity", "0")
    assert migrated.returncode == 0, migrated.stderr
    log = (tmp_path / "log").open("wb")
    command = (sys.executable, "-m", "celery", "-A", "site_config.celery", "worker")
    worker = subprocess.Popen(
        command, cwd=EXAMPLE, env=example.environ, stdout=log, stderr=log, start_new_session=True
    )
    yield example
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    log.close()
    print((tmp_path / "log").read_text())


def test_the_incident_of_the_how_to(example):
    before = example.wait_ready(4)
    assert example.run("fault.py", "tasks", "fail-next-loads", "3").returncode == 0
    for pid in before[:2]:
        os.kill(pid, signal.SIGKILL)
    counted = example.run("manage.py", "count_books", "40")
    assert counted.stdout == "40 succeeded\n", counted
    example.wait_ready(4)
    told = example.run("-m", "django_workerguard.cli", "events", "--celery").stdout
    assert len(re.findall("load-failed .*tasks-fail-next-loads is on", told)) == 3
