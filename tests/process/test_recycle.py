"""uWSGI's recycle policies: the successor is ready first, whatever the reason, and never more at once than the budget.

test_replacement.py has max-requests and max-worker-lifetime under load, on every worker class.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import threading
import time

import pytest

from django_workerguard.report.findings import Finding, assess
from django_workerguard.worker.view_memory import PAUSE
from tests.journal import least_ready
from tests.process.clients import Load
from tests.process.commands import workerguard
from tests.process.harness import Server, Since, wait_whole

LONGEST_PAUSE = 2 * PAUSE / 1e9  # seconds between two requests of a worker that are measured
SOON = ("--min-worker-lifetime", "0")


def recycled(server: Server, rule: str, count: int) -> None:
    server.wait_event("exited", lambda event: event["rule"].startswith(rule), count=count)


@pytest.mark.parametrize(
    (
        "worker_class",
        "load",
        "limit",
    ),  # MB; of a worker that a mold has forked only its private memory counts
    [("sync", "lazy", 120), ("gthread", "lazy", 120), ("asgi", "lazy", 120), ("sync", "mold", 70)],
)
def test_a_worker_that_has_grown_is_replaced_even_where_it_idles(serve, worker_class, load, limit):
    server = serve("-k", worker_class, "--load", load, "--reload-on-rss", str(limit), *SOON)
    server.wait_ready()
    for _ in range(30):
        time.sleep(LONGEST_PAUSE)
        server.get("/leak?mb=8")
        server.get("/page")
    event = server.wait_event("retiring")
    assert event["reason"].startswith("reload-on-rss: ")
    samples = re.search(rf" of {limit} MB, (\d+) samples in a row$", event["reason"])
    assert samples, event["reason"]
    assert int(samples[1]) >= 3, "both workers have grown, and one of them waits for its turn"
    assert event["views"][0].startswith("guinea_app.views.leak +"), "which view made it grow"
    assert "most was kept by guinea_app.views.leak +" in server.log
    server.wait_event("exited", lambda exited: exited["pid"] == event["pid"])
    views = json.loads(workerguard("memory", "--json", run_dir=server.run_dir).stdout)["views"]
    assert views[0]["view"] == "guinea_app.views.leak", "also when its worker is gone"
    assert views[0]["retained_bytes"] > 50 << 20
    assert all(view["retained_bytes"] < 4 << 20 for view in views[1:])
    server.wait_ready()
    assert least_ready(server.events()) == 2


def test_a_leak_that_goes_on_is_a_finding_that_names_the_view(serve):
    server = serve("--reload-on-rss", "120", *SOON, workers=1)
    server.wait_ready()
    for number in range(1, 4):
        for _ in range(3):
            time.sleep(LONGEST_PAUSE)
            server.get("/leak?mb=30")
        recycled(server, "reload-on-rss", number)
        server.wait_ready()
    status = json.loads(workerguard("status", "--json", run_dir=server.run_dir).stdout)
    assert status["slots"][0]["recycled_often"] == {"rule": "reload-on-rss", "view": "guinea_app.views.leak"}
    (finding,) = (found for found in status["findings"] if found["code"] == "recycled-often")
    assert finding["text"] == (
        "slot 1: reload-on-rss replaces its workers again and again, more often than every five minutes; "
        "most of their memory was kept by guinea_app.views.leak (see workerguard memory)"
    )


def test_evil_reload_kills_in_the_middle_of_a_request_and_never_the_last(serve):
    server = serve("-k", "gthread", "--threads", "4", "--evil-reload-on-rss", "120", *SOON)
    server.wait_ready()
    try:
        pid = server.get("/grow?mb=120").pid
    except (OSError, http.client.HTTPException):  # killed before it answered, on a slow machine
        pid = server.wait_event("request-lost", lambda event: event["path"] == "/grow")["pid"]
    event = server.wait_event("exited", lambda event: event["pid"] == pid)
    assert (event["end"], event["rule"]) == ("killed by SIGKILL", "evil-reload-on-rss")
    server.wait_ready()

    server.signal(signal.SIGTTOU)
    server.wait("one worker", lambda status: status["target"] == 1 and len(status["slots"]) == 1)
    last = server.get("/grow?mb=120").pid
    server.wait("the sample", lambda status: status["slots"][0]["rss_bytes"] > 120 << 20)
    assert server.get("/").pid == last
    assert len(server.events("killed")) == 1


def test_what_is_wrong_with_all_workers_replaces_none(serve, subtests):
    limits = ("--reload-on-rss", "1", "--evil-reload-on-rss", "2")
    server = serve(*limits, "--outlier-min-requests", "10", *SOON)
    server.wait_ready()
    before = server.pids()

    with subtests.test("where all fail, none is ejected"):
        threads = [threading.Thread(target=server.statuses, args=(60, "/broken")) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.pids() == before

    with subtests.test("a limit below a fresh worker starts no kill loop"):
        server.wait(
            "the note", lambda status: all("rss_baseline" in slot["notes"] for slot in status["slots"])
        )
        server.statuses(10)
        beat = server.status()["at"]
        server.wait("some samples more", lambda status: status["at"] > beat + 5)
        assert server.pids() == before


def test_a_lifetime_below_the_load_replaces_one_after_the_other(serve):
    server = serve("--max-worker-lifetime", "10ms", *SOON)
    server.wait_ready()
    recycled(server, "max-worker-lifetime", 4)
    assert server.statuses(10) == {200: 10}
    assert least_ready(server.events()) == 2


@pytest.mark.timeout(300)
def test_a_memory_error_and_a_large_response(serve, worker_class, subtests):
    server = serve("-k", worker_class, *SOON)
    wait_whole(server)
    if worker_class in ("sync", "gevent", "uvicorn_worker.UvicornWorker"):
        with subtests.test("a MemoryError recycles its worker"):
            assert_a_memory_error_recycles_its_worker(server)
        wait_whole(server)
    with subtests.test("a MemoryError in the middle of a response recycles its worker too"):
        since = Since(server)
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.get("/starved-stream")
        assert since.wait("retiring")["reason"].startswith("reload-on-memory-error: 1 of ")
    wait_whole(server)
    if worker_class in ("sync", "gthread", "gevent"):
        server.signal(signal.SIGTTOU)
        server.wait("one worker", lambda status: status["target"] == 1 and len(status["slots"]) == 1)
        wait_whole(server, 1)
        with subtests.test("a large response that is freed is not charged to its view"):
            assert_a_large_response_that_is_freed_is_not_charged_to_its_view(server)


def assert_a_memory_error_recycles_its_worker(server: Server) -> None:
    since = Since(server)
    assert server.get("/starve").status == 500
    event = since.wait("retiring")
    assert event["reason"] == "reload-on-memory-error: 1 of 1 requests ended in MemoryError"
    server.wait_ready()
    assert least_ready(server.events()) == 2


def assert_a_large_response_that_is_freed_is_not_charged_to_its_view(server: Server) -> None:
    for _ in range(12):
        for path in ("/download?mb=8", "/page"):
            time.sleep(LONGEST_PAUSE)
            assert server.get(path).status == 200
    views = json.loads(workerguard("memory", "--json", run_dir=server.run_dir).stdout)["views"]
    (download,) = (view for view in views if view["view"] == "guinea_app.views.download")
    assert download["measured"] > 5
    assert download["retained_bytes"] < 16 << 20, "two responses, of at least six"


def test_a_worker_that_differs_from_its_peers_is_replaced(serve, subtests):
    server = serve("--outlier-latency", "eject", "--outlier-min-requests", "10", *SOON)
    wait_whole(server)

    # first, because a worker is not slow until half of its requests of the last minute were
    with subtests.test("it is slow"):
        since = Since(server)
        slow = server.get("/tire").pid
        with Load(server):
            event = since.wait("retiring")
        assert (event["pid"], event["rule"]) == (slow, "outlier-latency")
    wait_whole(server)

    with subtests.test("it fails"):
        since = Since(server)
        sick = server.get("/sicken").pid
        with Load(server):
            event = since.wait("retiring")
        assert event["pid"] == sick
        assert event["rule"] == "outlier"
        server.wait_ready()
        since.wait("exited", lambda event: event["pid"] == sick)
        assert server.statuses(30) == {200: 30}


def test_an_outlier_is_only_reported_where_that_was_asked_for(serve):
    server = serve("--outlier", "report", "--outlier-min-requests", "20", *SOON)
    server.wait_ready()
    server.get("/sicken")
    with Load(server):
        server.wait("the note", lambda status: any("outlier" in slot["notes"] for slot in status["slots"]))
    assert not server.events("retiring")


def test_a_worker_that_is_slow_where_its_peers_are_not_is_reported_and_serves_on(serve):
    server = serve("--outlier-min-requests", "10", *SOON, "--", "-k", "asgi")
    server.wait_ready()
    slow = server.get("/tire").pid

    def finding(status: dict) -> Finding | None:
        return next((one for one in assess(status) if one.code == "outlier-latency"), None)

    with Load(server):
        # the medians are of the last sample, which may be older than the finding
        told = "its median of the last minute is "
        status = server.wait("the finding", lambda status: told in getattr(finding(status), "text", ""))
    assert status["slots"][finding(status).slot - 1]["pid"] == slow
    assert not server.events("retiring")


def test_the_lifetime_ends_a_worker_that_could_not_load(serve, faults):
    """uWSGI's second remedy for the incident, under need-app=off."""
    server = serve("--need-app", "off", "--load-retries", "1", "--max-worker-lifetime", "12s")
    server.wait_ready()
    faults.set("ready", "memory")
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    server.wait("unloaded", lambda status: status["slots"][0]["state"] == "unloaded")
    assert server.statuses(10) == {200: 10}
    faults.clear()
    event = server.wait_event("exited", lambda event: event["state"] == "retiring" and event["slot"] == 1)
    assert event["rule"] == "max-worker-lifetime"
    server.wait_event("ready", lambda event: event["slot"] == 1, count=2)


def test_one_budget_governs_all_reasons_together(serve):
    """Age, requests and a recycle by hand come due at once: one successor at a time."""
    server = serve("-w", "4", "--max-worker-lifetime", "2s", "--max-requests", "5", *SOON)
    server.wait_ready()
    server.statuses(40)
    recycled(server, "max-", 8)
    beside = most = 0
    for event in server.events():
        match event["event"]:
            case "spawned" if event.get("reason"):
                beside += 1
                most = max(most, beside)
            case "retiring":
                beside -= 1
    assert most == 1
    assert least_ready(server.events()) == 4


def test_every_worker_that_served_was_told_ready_however_many_die_beside_it(serve):
    server = serve(*SOON, "--max-requests", "20", "--surge", "2", "--load-retry-delay", "10ms", workers=3)
    server.wait_ready()
    with Load(server, pause=0.005):  # a worker is asked as soon as it is there
        for _ in range(12):
            status = server.wait_ready(2)
            victim = next(slot["pid"] for slot in status["slots"] if slot["state"] == "ready")
            with contextlib.suppress(ProcessLookupError):  # it was recycled meanwhile
                os.kill(victim, signal.SIGKILL)
            server.wait_event("exited", lambda event, pid=victim: event["pid"] == pid)
    ready = {event["pid"] for event in server.events("ready")}
    served = {event["pid"] for event in server.events("exited") if event["requests"]}
    assert served <= ready
