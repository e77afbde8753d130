"""The example site: its own tests pass, and its faults act in workers and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "example_project"

# What the mixin does in a freshly forked worker, as far as a fault can tell.
IN_A_WORKER = """
from types import SimpleNamespace
from django_workerguard.worker.current import set_current_worker
set_current_worker(SimpleNamespace(slot=1))
"""
LOAD = "import django; django.setup()"
URLCONF = "import django; django.setup(); import site_config.urls"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EXAMPLE_")} | {
        "DJANGO_SETTINGS_MODULE": "site_config.settings",
        "EXAMPLE_FAULTS": str(tmp_path / "faults"),
        "EXAMPLE_DATABASE": str(tmp_path / "db.sqlite3"),
        "PYTHONPATH": os.pathsep.join([str(EXAMPLE), str(EXAMPLE.parent)]),
    }

    def run(*arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def fault(run: Run, *arguments: str) -> str:
    result = run(EXAMPLE / "fault.py", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def load_in_a_worker(run: Run, statement: str = LOAD, **options: float) -> subprocess.CompletedProcess[str]:
    return run("-c", IN_A_WORKER + statement, **options)


def test_its_own_tests_pass(run: Run) -> None:
    result = run(EXAMPLE / "manage.py", "test", "catalogue")
    assert result.returncode == 0, result.stderr
    assert int(re.search(r"Ran (\d+) tests", result.stderr)[1]) >= 15


def test_its_migrations_are_complete(run: Run) -> None:
    result = run(EXAMPLE / "manage.py", "makemigrations", "--check", "--dry-run")
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_a_fault_a_worker_loads(run: Run) -> None:
    result = load_in_a_worker(run, URLCONF)
    assert result.returncode == 0, result.stderr


def test_the_next_loads_fail_and_then_no_more(run: Run) -> None:
    assert fault(run, "fail-next-loads", "2") == "the next 2 loads fail\n"
    failures = [load_in_a_worker(run) for _ in range(2)]
    assert all("MemoryError: the fault fail-next-loads is on" in each.stderr for each in failures)
    assert load_in_a_worker(run).returncode == 0
    assert fault(run, "list") == "no fault is on\n"


def test_loads_at_the_same_time_count_down_exactly(run: Run) -> None:
    fault(run, "fail-next-loads", "50")
    counting = "from site_config.faults import take_one; print(sum(take_one() for _ in range(20)))"
    with ThreadPoolExecutor(4) as pool:
        taken = [int(each.stdout) for each in pool.map(lambda _: run("-c", counting), range(4))]
    assert sum(taken) == 50


def test_loads_fail_until_a_time(run: Run, tmp_path: Path) -> None:
    fault(run, "fail-loads-until", "3600")
    assert "MemoryError: the fault fail-loads-until is on" in load_in_a_worker(run).stderr
    (tmp_path / "faults" / "fail-loads-until").write_text(str(time.time() - 1))
    assert load_in_a_worker(run).returncode == 0


def test_loads_are_killed(run: Run) -> None:
    fault(run, "kill-loads")
    assert load_in_a_worker(run).returncode == -9


def test_loads_hang(run: Run) -> None:
    fault(run, "hang-loads")
    with pytest.raises(subprocess.TimeoutExpired):
        load_in_a_worker(run, timeout=3)


def test_the_urlconf_fails_and_nothing_before_it(run: Run) -> None:
    fault(run, "fail-urlconf")
    assert load_in_a_worker(run, LOAD).returncode == 0
    assert "ImportError: the fault fail-urlconf is on" in load_in_a_worker(run, URLCONF).stderr


def test_manage_py_is_never_struck(run: Run) -> None:
    for arguments in (("kill-loads",), ("fail-urlconf",), ("fail-next-loads", "5")):
        fault(run, *arguments)
    result = run(EXAMPLE / "manage.py", "check")
    assert result.returncode == 0, result.stderr
    assert "the next 5 loads fail" in fault(run, "list")


def test_clear_switches_everything_off(run: Run) -> None:
    fault(run, "hang-loads")
    assert fault(run, "clear") == "no fault is on\n"
    assert load_in_a_worker(run).returncode == 0


@pytest.mark.parametrize("arguments", [(), ("fail-next-loads",), ("fail-next-loads", "-1"), ("../escape",)])
def test_a_wrong_fault_gets_the_usage(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(EXAMPLE / "fault.py", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "fail-next-loads 6" in result.stderr
    assert not (tmp_path / "faults").exists()
