"""Every worker is replaced under load, by each rule and by a reload: failures, capacity, latency. Beside plain gunicorn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

import pytest

from django_workerguard.scoreboard.journal import read_events
from tests.benchmarks import open_loop
from tests.benchmarks.measure import UWSGI, Running, board_of, report, server, wrk
from tests.journal import least_ready

SECONDS = float(os.environ.get("BENCH_RECYCLE_SECONDS", "8"))
CLASSES = ["sync", "gthread", "gevent", "asgi"]
LEAK = 512  # KB a request


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
    # an open loop of our own keeps to its schedule up to some hundred requests a second
    rate = min(capacity(worker_class, workers) / 2, 300.0)
    each = max(20, int(rate * SECONDS / workers / 3))
    soon = ["--min-worker-lifetime", "0"]
    by_requests = ["--max-requests", str(each), *soon]
    lines = []
    calm, told = one("plain", worker_class, workers, rate)
    p99 = calm.p99_ms
    lines.append(line("plain, undisturbed", calm, told, p99))
    for what, kind, options in (
        ("plain, max_requests", "plain", {"extra": ["--max-requests", str(each)]}),
        ("guarded, undisturbed", "guarded", {}),
        ("guarded, max-requests", "guarded", {"guard": by_requests}),
        ("guarded, max-worker-lifetime", "guarded", {"guard": ["--max-worker-lifetime", "3", *soon]}),
        (
            "guarded, reload-on-rss",
            "guarded",
            {"guard": ["--reload-on-rss", "100", *soon], "path": f"/work?leak={LEAK}"},
        ),
        ("guarded, max-requests, kept-alive", "guarded", {"guard": by_requests, "kept_alive": 4 * workers}),
        ("guarded, two reloads", "guarded", {"hups": 2}),
        ("plain, two reloads", "plain", {"hups": 2}),
    ):
        seen, told = one(kind, worker_class, workers, rate, **options)
        lines.append(line(what, seen, told, p99))
        time.sleep(0.2)
    if worker_class == "sync" and UWSGI.exists():
        for what, extra, hups in (
            ("uWSGI, undisturbed", [], 0),
            ("uWSGI, max-requests", ["--max-requests", str(each)], 0),
            ("uWSGI, two reloads", [], 2),
        ):
            seen, told = one("uwsgi", worker_class, workers, rate, extra=extra, hups=hups)
            lines.append(line(what, seen, told, p99))
    report(f"recycling, {worker_class}, {workers} workers, {rate:.0f} requests a second", *lines)


@pytest.mark.needs("wrk")
def test_idle_connections_of_uvicorn():
    """uvicorn's own worker closes idle kept-alive connections when it is asked to stop."""
    lines = []
    for kind in ("plain", "guarded"):
        seen, told = one(kind, "uvicorn_worker.UvicornWorker", 2, 100.0, kept_alive=16, hups=3)
        lines.append(line(f"{kind}, three reloads, kept-alive", seen, told, seen.p99_ms))
    report("uvicorn-worker, kept-alive connections", *lines)
