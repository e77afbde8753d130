"""Every worker is replaced under load, by each rule and by a reload: failures, capacity, latency. Beside plain gunicorn."""

from __future__ import annotations

import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from django_workerguard.scoreboard.journal import read_events
from tests.benchmarks import open_loop
from tests.benchmarks.measure import ROOT, SITE, UWSGI, Running, board_of, judge, report, server, wrk
from tests.journal import least_ready

SECONDS = float(os.environ.get("BENCH_RECYCLE_SECONDS", "8"))
CLASSES = ["sync", "gthread", "gevent", "asgi"]
PAIRS = 3  # of runs beside plain gunicorn's own, in alternation
LEAK = 512  # KB a request
FASTEST = 320.0  # requests a second up to which the open loop keeps to its schedule
GUARDED = {
    "max-requests": ({}, ()),
    "max-worker-lifetime": ({}, ("--max-worker-lifetime", "3")),
    "reload-on-rss": ({"path": f"/work?leak={LEAK}"}, ("--reload-on-rss", "100")),
    "two reloads": ({"hups": 2}, ()),
}

PLAIN = {  # what gunicorn has of its own
    "max-requests": lambda own: {"extra": own},
    "two reloads": lambda own: {"hups": 2},
}


def arguments_of(worker_class: str) -> list[str]:
    return ["--threads", "4"] if worker_class == "gthread" else []


def journal(running: Running) -> tuple[int, int]:
    """Return how many workers were replaced, and the least number of slots that were ready after the start."""
    events = list(read_events(board_of(running)))
    return sum(event["event"] == "retiring" for event in events), least_ready(events)


def one(
    kind: str,
    worker_class: str,
    workers: int,
    rate: float,
    *,
    path: str = "/work",
    guard: Sequence[str] = (),
    extra: Sequence[str] = (),
    kept_alive: int = 0,
    hups: int = 0,
) -> tuple[open_loop.Seen, str]:
    """Run one server under the load and return what its clients saw, and what its journal tells."""
    arguments = [*arguments_of(worker_class), *extra]
    with server(
        kind, workers=workers, worker_class=worker_class, arguments=arguments, guard=guard
    ) as running:
        wrk(running.port, seconds=1, connections=workers)  # hot
        over = threading.Event()
        reloads = threading.Thread(target=_reload, args=(running, hups, over))
        reloads.start()
        seen = open_loop.run(running.port, path, rate=rate, seconds=SECONDS, kept_alive=kept_alive)
        over.set()
        reloads.join()
        told = ""
        if kind == "guarded":
            replaced, least = journal(running)
            told = f", {replaced} replaced, never fewer than {least} of {workers} ready"
    return seen, told


def guarded_one(
    worker_class: str, workers: int, rate: float, **options: object
) -> tuple[open_loop.Seen, str, int]:
    seen, told = one("guarded", worker_class, workers, rate, **options)
    return seen, told, int(re.search(r"never fewer than (\d+)", told)[1])


def _reload(running: Running, times: int, over: threading.Event) -> None:
    for _ in range(times):
        if over.wait(SECONDS / (times + 1)):
            return
        os.kill(running.pid, signal.SIGHUP)


def line(what: str, seen: open_loop.Seen, told: str, undisturbed: float) -> str:
    retried = f", {seen.retried} retried" if seen.retried else ""
    return (
        f"{what}: {seen.failed} of {len(seen.seconds)} failed {dict(seen.outcomes)}{retried}{told}; p50 {seen.p50_ms:.1f} ms, "
        f"p99 {seen.p99_ms:.1f} ms ({seen.p99_ms / undisturbed:.2f} × undisturbed)"
    )


def capacity(worker_class: str, workers: int) -> float:
    """Return the requests a second that plain gunicorn answers when it is asked for all that it can."""
    with server(
        "plain", workers=workers, worker_class=worker_class, arguments=arguments_of(worker_class)
    ) as running:
        load = wrk(running.port, seconds=3, connections=2 * workers, path="/work")
        return load.requests / load.seconds


@pytest.mark.needs("wrk")
@pytest.mark.parametrize("workers", [4, 8])
@pytest.mark.parametrize("worker_class", CLASSES)
def test_recycling_under_load(worker_class, workers):
    most = capacity(worker_class, workers)
    rate = min(most / 2, FASTEST)
    each = max(20, int(rate * SECONDS / workers / 3))
    lines: list[str] = []
    figures: list[tuple[bool, str]] = []
    calm, told = one("plain", worker_class, workers, rate)
    lines.append(line("plain, undisturbed", calm, told, calm.p99_ms))
    undisturbed, told = one("guarded", worker_class, workers, rate)
    lines.append(line("guarded, undisturbed", undisturbed, told, calm.p99_ms))
    own = ("--max-requests", str(each))
    for (what, (options, guard)), kept_alive in itertools.product(GUARDED.items(), (0, 4 * workers)):
        soon = ("--min-worker-lifetime", "0", *(own if what == "max-requests" else guard))
        beside = PLAIN.get(what) if not kept_alive else None
        name = f"{what}{', kept-alive' if kept_alive else ''}"
        plain, guarded = [], []
        for _ in range(PAIRS if beside else 1):
            if beside:
                seen, told = one("plain", worker_class, workers, rate, **beside(own))
                lines.append(line(f"plain, {name}", seen, told, calm.p99_ms))
                plain.append(seen.p99_ms)
            seen, told, least = guarded_one(
                worker_class, workers, rate, guard=soon, kept_alive=kept_alive, **options
            )
            lines.append(line(f"guarded, {name}", seen, told, calm.p99_ms))
            guarded.append(seen.p99_ms)
            figures.append(
                (not seen.failed and least == workers, f"{name}: nothing failed, never below {workers}")
            )
        if beside:
            ratio = statistics.median(guarded) / statistics.median(plain)
            figures.append((ratio <= 1.0, f"{name}: median p99 {ratio:.2f} × that of plain gunicorn's own"))
    if worker_class == "sync" and UWSGI.exists():
        for what, extra, hups in (
            ("uWSGI, undisturbed", [], 0),
            ("uWSGI, max-requests", ["--max-requests", str(each)], 0),
            ("uWSGI, two reloads", [], 2),
        ):
            seen, told = one("uwsgi", worker_class, workers, rate, extra=extra, hups=hups)
            lines.append(line(what, seen, told, calm.p99_ms))
    title = f"recycling, {worker_class}, {workers} workers, {rate:.0f} requests a second ({rate / most:.0%} of the capacity)"
    judge(title, *lines, figures=figures)


@pytest.mark.needs("wrk")
@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_reload_that_cannot_load(worker_class, tmp_path):
    """Under load: nothing fails, and the command knows within its load, the reading of the settings and two seconds."""
    os.environ["FAIL_FILE"] = str(tmp_path / "fail")
    try:
        with server("guarded", workers=4, worker_class=worker_class) as running:
            wrk(running.port, seconds=1, connections=4)  # hot
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(open_loop.run, running.port, "/work", rate=100.0, seconds=SECONDS)
                time.sleep(1)
                Path(os.environ["FAIL_FILE"]).touch()
                asked = time.time()
                command = [sys.executable, "-m", "django_workerguard.cli", "reload", "--wait"]
                told = subprocess.run(
                    command, cwd=SITE, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
                )
                took = time.time() - asked
                seen = load.result()
            events = list(read_events(board_of(running)))
            _, least = journal(running)
    finally:
        del os.environ["FAIL_FILE"]
    begun = next(event["at"] for event in events if event["event"] == "reload")
    failed = next(event["at"] for event in events if event["event"] == "load-failed")
    beyond = took - (failed - asked)
    judge(
        f"a reload that cannot load, {worker_class}",
        f"settings {begun - asked:.2f} s, load {failed - begun:.2f} s, the command {took:.2f} s, exit code {told.returncode}",
        line("the clients", seen, "", seen.p99_ms),
        figures=[
            (told.returncode == 22, "the command says that the load failed"),
            (beyond <= 2.0, f"within two seconds of it: {beyond:.2f} s"),
            (not seen.failed and least == 4, "nothing failed, never below 4"),
        ],
    )


@pytest.mark.needs("wrk")
def test_idle_connections_of_uvicorn():
    """uvicorn's own worker closes idle kept-alive connections when it is asked to stop."""
    lines = []
    for kind in ("plain", "guarded"):
        seen, told = one(kind, "uvicorn_worker.UvicornWorker", 2, 100.0, kept_alive=16, hups=3)
        lines.append(line(f"{kind}, three reloads, kept-alive", seen, told, seen.p99_ms))
    report("uvicorn-worker, kept-alive connections", *lines)
