"""The memory of a worker beside plain gunicorn on a large project: Wagtail, as ``wagtail start`` makes it."""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.benchmarks.measure import ROOT, compiling, free_port, judge, resident_megabytes

RUNS = 3
WORKERS = 3
REQUESTS = 60  # to each worker, on average
GOAL = 1.04  # beside plain gunicorn


@pytest.fixture(scope="module")
def wagtail(tmp_path_factory) -> Path:
    """Return a project, with its own environment in ``venv``."""
    directory = tmp_path_factory.mktemp("wagtail")
    venv = directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wagtail", ROOT], check=True)
    subprocess.run([venv / "bin/wagtail", "start", "big", directory], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [venv / "bin/python", "manage.py", "migrate", "--verbosity", "0"],
        cwd=directory,
        env=environment(),
        check=True,
    )
    return directory


def environment() -> dict[str, str]:
    return {**compiling(), "DJANGO_SETTINGS_MODULE": "big.settings.dev", "PYTHONHASHSEED": "0"}


@contextmanager
def serving(project: Path, kind: str) -> Iterator[tuple[int, int]]:
    """Serve the project with plain gunicorn (``plain``) or the guarded server (``guarded``); give pid and port."""
    port = free_port()
    python = project / "venv/bin/python"
    common = ["--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS)]
    command: list[str | os.PathLike[str]] = (
        [python, "-m", "gunicorn", *common, "big.wsgi"]
        if kind == "plain"
        else [python, "-m", "django_workerguard", "serve", *common]
    )
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=project, env=environment(), stdout=quiet, stderr=quiet)
    try:
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ask(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/", headers={"Host": "localhost", "Connection": "close"})
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    return response.status


def wait_for_workers(pid: int, port: int) -> list[int]:
    """Return the pids of the workers once the start page answers and all of them have loaded."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if ask(port) == 200 and len(pids := large_children(pid)) == WORKERS:
                return pids
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the server did not answer")


def large_children(pid: int) -> list[int]:
    """Return the children that have loaded the project: the stand-in has not."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, children) if resident_megabytes(child, "Rss") > 60]


def memory_of_a_worker(project: Path, kind: str) -> float:
    """Return the PSS of a worker in MB, the mean of all, after requests to each."""
    with serving(project, kind) as (pid, port):
        wait_for_workers(pid, port)
        assert {ask(port) for _ in range(WORKERS * REQUESTS)} == {200}
        return statistics.fmean(resident_megabytes(child, "Pss") for child in large_children(pid))


def test_memory_of_a_worker(wagtail):
    found: dict[str, list[float]] = {"plain": [], "guarded": []}
    for _ in range(RUNS):
        for kind, sizes in found.items():
            sizes.append(memory_of_a_worker(wagtail, kind))
    ratios = [guarded / plain for plain, guarded in zip(*found.values(), strict=True)]
    ratio = statistics.median(ratios)
    judge(
        f"PSS of a worker on Wagtail, {RUNS} runs of each in alternation",
        *(f"{kind}: {', '.join(f'{size:.1f}' for size in sizes)} MB" for kind, sizes in found.items()),
        f"guarded beside plain: {', '.join(f'{one:.3f}' for one in ratios)}",
        figures=[(ratio <= GOAL, f"median {ratio:.3f}, at most {GOAL:g}")],
    )
