"""What it costs a worker to be looked at, at 64 slots and with a full journal: CPU per look, the median of many."""

from __future__ import annotations

import json
import statistics
import time

import pytest
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client, RequestFactory
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from django_workerguard.contrib.prometheus import WorkerguardCollector
from django_workerguard.dashboard.snapshots import HtmlCache
from django_workerguard.dashboard.views import POLL_TILES
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.findings import with_findings
from django_workerguard.report.status_text import table
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import write_event
from django_workerguard.scoreboard.layout import (
    EVENTS,
    SAMPLES,
    Layout,
    Sample,
    Seat,
    SeatState,
    Slot,
    SlotState,
)
from django_workerguard.worker import current
from django_workerguard.worker.current import CurrentWorker
from tests.benchmarks.measure import judge

SLOTS = 64
LIMIT, VIEWER_MINUTE = 5.0, 10.0  # ms
PROMETHEUS_ACCEPTS = (  # version 3
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
STEPS = [
    {
        "name": name,
        "seconds": 0.1,
        "peak_bytes": 1 << 20,
        "retained_bytes": 1 << 20,
        "threads_left": 0,
        "sockets_left": 0,
        "left": [],
        "skipped": [],
    }
    for name in ("app", "urlconf", "templates", "lazy", "warmup:/", "warmup:/books/")
]
ERROR = {
    "type": "MemoryError",
    "message": "none left",
    "traceback": "  File …\n" * 400,
    "step": "app",
    "at": 1.0,
}


@pytest.fixture(scope="module")
def worker():
    board = Board.create(Layout(seats=2 * SLOTS, slots=SLOTS), None)
    words, layout, now = board.words, board.layout, time.time()
    board.write_about(
        {"host": "here", "name": "bench", "bind": ["http://127.0.0.1:8000"], "worker_class": "sync"}
    )
    words[Header.STARTED_AT] = int((now - 3600) * 1e6)
    words[Header.BEAT] = monotonic_ns()
    for word, value in ((Header.TARGET, SLOTS), (Header.READY, SLOTS), (Header.QUORUM, 1), (Header.PHASE, 1)):
        words[word] = value
    for slot in range(1, SLOTS + 1):
        at, seat = layout.slot(slot), layout.seat(slot - 1)
        words[at + Slot.SEAT], words[at + Slot.STATE], words[at + Slot.SINCE] = (
            slot,
            SlotState.READY,
            int(now * 1e6),
        )
        words[seat + Seat.PID], words[seat + Seat.STATE], words[seat + Seat.RSS] = (
            1000 + slot,
            SeatState.READY,
            60 << 20,
        )
        words[seat + Seat.REQUESTS] = 12345
        board.write_release(slot - 1, "2026.11.23")
        board.write_seat_report(slot - 1, {"steps": STEPS})
        board.write_last_error(slot, ERROR)
        for index in range(SAMPLES):
            sample = layout.sample(slot, index)
            words[sample + Sample.AT] = int(now) - 3600 + 10 * index
            words[sample + Sample.REQUESTS] = 100 * index
    words[Header.SAMPLES] = SAMPLES
    for number in range(EVENTS):
        slot = number % SLOTS + 1
        common = {"at": now - 3600 + 3600 * number / EVENTS, "slot": slot, "generation": 1}
        pid = 1000 + number // 4
        name = ("spawned", "ready", "retiring", "exited")[number % 4]
        common["slot"] = pid % SLOTS + 1
        write_event(
            board,
            {
                **common,
                "event": name,
                "pid": pid,
                "reason": "max-requests: 1000 of 1000",
                "state": "retiring",
            },
        )
    worker = CurrentWorker(slot=1, pid=1001, generation=1, seat=0, board=board)
    current.set_current_worker(worker)
    yield worker
    current.set_current_worker(None)


def cost(look, *, times=30) -> float:
    """Return the median CPU, in milliseconds, of so many looks."""
    found = []
    for _ in range(times):
        before = time.process_time()
        look()
        found.append(time.process_time() - before)
    return statistics.median(found) * 1000


def fresh(worker, look):
    """Look as if nobody had looked in the last second, with the timeline read before."""
    looks = HtmlCache(worker.board, clock=iter(range(0, 10_000_000, 10)).__next__)
    getattr(looks, look[0])(*look[1:])
    return lambda: getattr(looks, look[0])(*look[1:])


@pytest.mark.django_db
def test_looking(worker):
    registry = CollectorRegistry()
    registry.register(WorkerguardCollector())
    encode, _ = choose_encoder(PROMETHEUS_ACCEPTS)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    page = client.get("/guard/")
    assert page.status_code == 200

    def first():
        before = time.process_time()
        HtmlCache(worker.board).history()
        return (time.process_time() - before) * 1000

    scrape = cost(lambda: encode(registry))
    status = cost(lambda: json.dumps(with_findings(worker.snapshot())))
    shown = cost(lambda: table(with_findings(worker.snapshot())))
    tiles, history = (cost(fresh(worker, look)) for look in (("tiles", "/slot/0/"), ("history",)))
    lines = [
        f"scrape {scrape:.2f} ms; status as JSON {status:.2f} ms, as a table {shown:.2f} ms; tiles {tiles:.2f} ms",
        f"last hour, with {EVENTS} events: {history:.2f} ms; the first time in a worker {first():.0f} ms",
        f"the whole page: {len(page.content) / 1024:.0f} KB",
    ]
    looks = HtmlCache(worker.board, clock=lambda: 0.0)
    looks.tiles("/slot/0/"), looks.history()
    handler = WSGIHandler()
    environ = RequestFactory().get("/guard/tiles/").environ
    environ["HTTP_COOKIE"] = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())

    def ask():
        answer = handler(dict(environ), lambda status, headers: statuses.add(status))
        assert b"".join(answer)
        answer.close()

    statuses = set()
    poll = cost(ask, times=200)
    assert statuses == {"200 OK"}
    kept = cost(lambda: (looks.tiles("/slot/0/"), looks.history()), times=200)
    polls = 60 / POLL_TILES  # the last hour comes with them
    lines.append(
        f"a poll that finds a kept look: {kept * 1000:.0f} µs of ours, {poll:.2f} ms with Django's middleware, the session and "
        f"the user; a viewer-minute of {polls:.0f} polls: {polls * poll:.1f} ms"
    )
    judge(
        "being looked at, medians",
        *lines,
        figures=[
            *(
                (found <= LIMIT, f"{what}: at most {LIMIT:g} ms")
                for what, found in (("scrape", scrape), ("status", status), ("tiles", tiles))
            ),
            (polls * poll <= VIEWER_MINUTE, f"a viewer-minute: at most {VIEWER_MINUTE:g} ms"),
        ],
    )
