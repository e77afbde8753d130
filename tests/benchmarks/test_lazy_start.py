"""From exec until eight workers have answered, by either way of starting, beside plain gunicorn in one run."""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.measure import (
    ROOT,
    compiling,
    cpu_seconds,
    each_answers_once,
    free_port,
    interval,
    judge,
)

RUNS = int(os.environ.get("BENCH_START_RUNS", "15"))
WORKERS = 8
PATIENCE = 60.0  # seconds
GOAL = 1.25  # times plain gunicorn
PROJECT = ROOT / "example_project"
GUARDED = {
    "manage.py serve_guarded": ["manage.py", "serve_guarded"],
    "python -m django_workerguard serve": ["-m", "django_workerguard", "serve"],
}
PLAIN = "gunicorn"
QUIET = ["--log-level", "warning"]


def command(kind: str, port: int) -> list[str]:
    common = ["--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS), "--worker-class", "sync"]
    if kind == PLAIN:
        return [sys.executable, "-m", "gunicorn", *common, *QUIET, "site_config.wsgi"]
    return [sys.executable, *GUARDED[kind], *common, "--", *QUIET]


def environment(database: Path) -> dict[str, str]:
    return {
        **compiling(),
        "DJANGO_SETTINGS_MODULE": "site_config.settings",
        "EXAMPLE_DATABASE": str(database),
        "PYTHONPATH": f"{ROOT}:{PROJECT}",
    }


@contextmanager
def started(kind: str, port: int, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command(kind, port),
        cwd=PROJECT,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def worker_that_answers(port: int) -> int | None:
    """Return the pid of a worker that has answered and closed the connection: it holds no lock of the database then."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        time.sleep(0.005)
        return None
    pid = re.search(rb"^X-Worker-Pid: (\d+)\r$", answer, re.MULTILINE)
    return int(pid[1]) if pid and b" 200 " in answer[:16] else None


def spent(process: subprocess.Popen[bytes], workers: set[int]) -> float:
    """Return the CPU seconds of the server, of what it has started and ended, and of its workers."""
    times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    ended = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return ended + sum(cpu_seconds(pid) for pid in (process.pid, *workers))


def start(kind: str, environ: dict[str, str]) -> tuple[float, float]:
    """Start a server and return the seconds until every worker has answered, and the CPU seconds spent till then."""
    port, workers = free_port(), set[int]()
    begun = time.monotonic()
    with started(kind, port, environ) as process, each_answers_once() as suspend:
        while len(workers) < WORKERS:
            assert time.monotonic() < begun + PATIENCE, f"{kind}: {len(workers)} workers have answered"
            if pid := worker_that_answers(port):
                suspend(pid)
                workers.add(pid)
        return time.monotonic() - begun, spent(process, workers)


def test_until_every_worker_has_answered(tmp_path):
    environ = environment(tmp_path / "db.sqlite3")
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=PROJECT, env=environ, check=True)
    kinds = [PLAIN, *GUARDED]
    for kind in kinds:
        start(kind, environ)  # until Python has kept its compiled code
    runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for number in range(RUNS):
        first = number % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            runs[kind].append(start(kind, environ))
    seconds = {kind: [took for took, _ in found] for kind, found in runs.items()}
    pairs = {
        kind: [ours / theirs for ours, theirs in zip(seconds[kind], seconds[PLAIN], strict=True)]
        for kind in GUARDED
    }
    ratios = {kind: statistics.median(found) for kind, found in pairs.items()}
    lines = [
        f"{kind}: median {statistics.median(seconds[kind]):.2f} s, {min(seconds[kind]):.2f} to {max(seconds[kind]):.2f} s; "
        f"{statistics.median(cpu for _, cpu in found):.2f} s of CPU"
        for kind, found in runs.items()
    ]
    for kind, found in pairs.items():
        mean, low, high = interval(found)
        lines.append(f"{kind}: by pairs {mean:.2f}, 95 % interval {low:.2f} to {high:.2f}")
    judge(
        f"until {WORKERS} workers have answered, the example site, {RUNS} interleaved runs",
        *lines,
        figures=[
            (
                ratio <= GOAL,
                f"{kind}: {ratio:.2f} times plain gunicorn (median of the pairs), at most {GOAL:g}",
            )
            for kind, ratio in ratios.items()
        ],
    )
