"""The mold beside lazy loading, gunicorn --preload and uWSGI with preloading, on the example site, in one interleaved run."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Seat, SeatState, Slot
from tests.benchmarks.measure import (
    UWSGI,
    cpu_seconds,
    each_answers_once,
    free_port,
    interval,
    judge,
    resident_megabytes,
    wrk,
)
from tests.benchmarks.test_lazy_start import PATIENCE, PROJECT, environment, worker_that_answers

RUNS = int(os.environ.get("BENCH_MOLD_RUNS", "9"))
WORKERS = 8
REQUESTS = int(os.environ.get("BENCH_MOLD_REQUESTS", "50000"))
SLICE, PAIRS = 2, 15  # seconds; least number of pairs
KILLS = 20
LAZY, MOLD, PRELOAD, PRELOAD_UWSGI = "lazy", "mold", "gunicorn --preload", "uWSGI, preloading"


def command(kind: str, port: int, run_dir: Path) -> list[str]:
    bind = f"127.0.0.1:{port}"
    match kind:
        case "gunicorn --preload":
            options = ["--bind", bind, "--workers", str(WORKERS), "--preload", "--log-level", "warning"]
            return [sys.executable, "-m", "gunicorn", *options, "site_config.wsgi"]
        case "uWSGI, preloading":
            options = ["--master", "--die-on-term", "--disable-logging", "--http-socket", bind]
            return [
                str(UWSGI),
                *options,
                "--processes",
                str(WORKERS),
                "--virtualenv",
                sys.prefix,
                "--module",
                "site_config.wsgi",
            ]
        case _:
            options = ["--bind", bind, "--workers", str(WORKERS), "--load", kind, "--run-dir", str(run_dir)]
            return [
                sys.executable,
                "-m",
                "django_workerguard",
                "serve",
                *options,
                "--",
                "--log-level",
                "warning",
            ]


@contextmanager
def started(
    kind: str, port: int, environ: dict[str, str], run_dir: Path
) -> Iterator[subprocess.Popen[bytes]]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(kind, port, run_dir), cwd=PROJECT, env=environ, **quiet)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in tree(int(child)))]


def megabytes(pid: int) -> float:
    """Return the memory of a tree of processes, each shared page counted once."""
    return sum(resident_megabytes(one, "Pss") for one in tree(pid))


def until_all_have_answered(process: subprocess.Popen[bytes], port: int, begun: float) -> float:
    workers = set[int]()
    with each_answers_once() as suspend:
        while len(workers) < WORKERS:
            assert time.monotonic() < begun + PATIENCE, f"{len(workers)} workers have answered"
            if pid := worker_that_answers(port):
                suspend(pid)
                workers.add(pid)
        return time.monotonic() - begun


def prepared(tmp_path: Path) -> dict[str, str]:
    # the warm-up requests of the example site are a worker's own, with a mold too: they would hide what is compared
    environ = {**environment(tmp_path / "db.sqlite3"), "WORKERGUARD_WARMUP_PATH": ""}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=PROJECT, env=environ, check=True
    )
    return environ


def test_start_and_memory(tmp_path):
    environ = prepared(tmp_path)
    kinds = [LAZY, MOLD, PRELOAD, *([PRELOAD_UWSGI] if UWSGI.exists() else [])]
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    fresh: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(RUNS):
        for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
            port, begun = free_port(), time.monotonic()
            with started(kind, port, environ, tmp_path) as process:
                times[kind].append(until_all_have_answered(process, port, begun))
                fresh[kind].append(megabytes(process.pid))
    took = {kind: statistics.median(found) for kind, found in times.items()}
    size = {kind: statistics.median(found) for kind, found in fresh.items()}
    judge(
        f"start and memory with {WORKERS} workers, the example site, median of {RUNS} interleaved runs",
        *(
            f"{kind}: all have answered after {took[kind]:.2f} s (at most {max(times[kind]):.2f}); {size[kind]:.0f} MB"
            for kind in kinds
        ),
        figures=[
            (took[MOLD] <= 0.5 * took[LAZY], f"start: {took[MOLD] / took[LAZY]:.2f} of lazy, at most 0.5"),
            (size[MOLD] <= 0.3 * size[LAZY], f"memory: {size[MOLD] / size[LAZY]:.2f} of lazy, at most 0.3"),
            (
                size[MOLD] <= 1.1 * size[PRELOAD],
                f"memory: {size[MOLD] / size[PRELOAD]:.2f} of gunicorn --preload, at most 1.1",
            ),
        ],
    )


def test_memory_and_cpu_after_many_requests(tmp_path):
    """Both servers run side by side, and get their requests in turn."""
    environ = prepared(tmp_path)
    kinds = (LAZY, MOLD)
    costs: dict[str, list[float]] = {kind: [] for kind in kinds}
    with ExitStack() as running:
        servers = {}
        for kind in kinds:
            port = free_port()
            process = running.enter_context(started(kind, port, environ, tmp_path))
            until_all_have_answered(process, port, time.monotonic())
            servers[kind] = process, port
        done = dict.fromkeys(kinds, 0)
        for number in itertools.count():
            if min(done.values()) >= REQUESTS and number >= PAIRS:
                break
            for kind in kinds if number % 2 else kinds[::-1]:
                process, port = servers[kind]
                before = sum(map(cpu_seconds, tree(process.pid)))
                requests = wrk(port, seconds=SLICE, connections=16).requests
                costs[kind].append((sum(map(cpu_seconds, tree(process.pid))) - before) / requests)
                done[kind] += requests
        sizes = {kind: megabytes(process.pid) for kind, (process, _) in servers.items()}
    ratios = [mold / lazy for lazy, mold in zip(costs[LAZY], costs[MOLD], strict=True)]
    size, (mean, low, high), middle = sizes[MOLD] / sizes[LAZY], interval(ratios), statistics.median(ratios)
    judge(
        f"after {min(done.values())} requests and more, {len(ratios)} pairs of {SLICE} s",
        *(
            f"{kind}: {sizes[kind]:.0f} MB, {statistics.median(costs[kind]) * 1e6:.0f} µs of CPU a request "
            f"(at most {max(costs[kind]) * 1e6:.0f})"
            for kind in kinds
        ),
        f"CPU per request beside lazy: the mean of the pairs is {mean:.3f}, its 95 % interval {low:.3f} to {high:.3f}",
        figures=[
            (size <= 0.45, f"memory: {size:.2f} of lazy, at most 0.45"),
            (middle <= 1.02, f"CPU per request: {middle:.3f} of lazy (median of the pairs), at most 1.02"),
        ],
    )


def until_replaced(board: Board, slot: int) -> float:
    """Kill the worker of a slot, and return the seconds until its replacement is ready."""
    words, layout = board.words, board.layout
    at = layout.slot(slot)
    gone = words[layout.seat(words[at + Slot.SEAT] - 1) + Seat.PID]
    begun = time.monotonic()
    os.kill(gone, signal.SIGKILL)
    while time.monotonic() < begun + PATIENCE:
        seat = words[at + Slot.SEAT]
        if seat:
            base = layout.seat(seat - 1)
            if words[base + Seat.PID] not in (0, gone) and words[base + Seat.STATE] == SeatState.READY:
                return time.monotonic() - begun
        time.sleep(0.0002)
    raise AssertionError("no replacement")


def test_a_killed_worker_until_its_replacement_is_ready(tmp_path):
    environ = prepared(tmp_path)
    times: dict[str, list[float]] = {}
    for kind in (LAZY, MOLD):
        port, run_dir = free_port(), tmp_path / kind
        run_dir.mkdir()
        with started(kind, port, environ, run_dir) as process:
            until_all_have_answered(process, port, time.monotonic())
            time.sleep(11)  # so that no death is an early one
            (path,) = run_dir.glob("*.board")
            board = Board.open(path)
            times[kind] = []
            for number in range(KILLS):
                times[kind].append(until_replaced(board, number % WORKERS + 1))
                time.sleep(11 if number % WORKERS == WORKERS - 1 else 0.2)
            board.close()
    took = {kind: statistics.median(found) * 1000 for kind, found in times.items()}
    judge(
        f"a killed worker until its replacement is ready, median of {KILLS}",
        *(f"{kind}: {took[kind]:.0f} ms, at most {max(times[kind]) * 1000:.0f}" for kind in (LAZY, MOLD)),
        figures=[(took[MOLD] <= 0.1 * took[LAZY], f"{took[MOLD] / took[LAZY]:.3f} of lazy, at most 0.1")],
    )
