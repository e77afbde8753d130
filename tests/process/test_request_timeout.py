"""Requests that run too long: their stacks, and what happens to their worker, on every worker class."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from http.client import HTTPException

import pytest
from websockets.sync.client import unix_connect

from django_workerguard.report.findings import assess
from tests.process.test_requests import Clients, in_hand, threads

# what the client of an aborted request gets; otherwise the connection is reset
ABORTED = {"sync": 500}


def test_a_worker_with_a_request_that_runs_too_long_is_replaced_once_its_successor_is_ready(
    serve, worker_class
):
    server = serve(
        "--request-timeout", "1", "--", "-k", worker_class, *threads(worker_class), "--timeout", "60"
    )
    server.wait_ready()
    asking = Clients(server)
    asking.ask("/slow?seconds=60")
    server.wait("in hand", lambda _: in_hand(server))
    slot, gone = in_hand(server)[0]["slot"], in_hand(server)[0]["pid"]
    server.wait_event("exited")
    (retiring,) = server.events("retiring")
    assert (retiring["pid"], retiring["rule"]) == (gone, "request-timeout")
    assert "GET /slow" in retiring["reason"]
    ready = next(event for event in server.events("ready") if event["slot"] == slot and event["pid"] != gone)
    assert ready["number"] < retiring["number"], "the successor was ready first"
    (aborted,) = server.events("aborted")
    assert aborted["rule"] == "request-timeout"
    (lost,) = server.events("request-lost")
    assert (lost["path"], lost["cause"]) == ("/slow", "request-timeout")
    assert "in slow" in server.slot(slot)["last_error"]["traceback"]
    assert asking.join() == [ABORTED.get(worker_class)]
    assert server.statuses(6) == {200: 6}


@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "asgi"])
def test_its_other_requests_are_finished(serve, worker_class):
    server = serve(
        *("--request-timeout", "2", "--worker-reload-mercy", "20"),
        *("--", "-k", worker_class, *threads(worker_class), "--timeout", "60"),
        workers=1,
    )
    server.wait_ready()
    hanging, others = Clients(server), Clients(server)
    hanging.ask("/slow?seconds=60" if worker_class != "asgi" else "/wait?seconds=60")
    server.wait_event("spawned", count=2)
    old = server.events("spawned")[0]["pid"]
    others.ask("/stream?lines=7")  # a second and a half
    server.wait_event("retiring")
    assert {one["path"] for one in in_hand(server) if one["pid"] == old} >= {
        "/slow" if worker_class != "asgi" else "/wait"
    }
    server.wait_event("exited")
    assert others.join() == [200]
    assert hanging.join() == [None]


def test_a_gevent_worker_that_is_aborted_in_the_greenlet_of_a_request_ends_at_once(serve):
    server = serve("--request-timeout", "1", "--", "-k", "gevent", "--timeout", "60", workers=1)
    server.wait_ready()
    asking = Clients(server)
    asking.ask("/hang?how=computing")
    server.wait_event("exited")
    assert asking.join() == [None]
    assert server.events("exited")[0]["end"] == "exit code 1"


def test_a_view_has_a_limit_of_its_own_and_a_request_can_extend_it(serve, worker_class):
    server = serve("--", "-k", worker_class, *threads(worker_class), "--timeout", "60")
    server.wait_ready()
    assert server.get("/extended?seconds=2").status == 200
    assert not server.events("retiring")
    asking = Clients(server)
    asking.ask("/limited?seconds=60")
    server.wait_event("exited")
    assert server.events("request-lost")[0]["view"] == "guinea_app.views.limited"
    assert asking.join() == [ABORTED.get(worker_class)]


ASYNCHRONOUS = ("asgi", "uvicorn_worker.UvicornWorker")
CANCEL = ("--request-timeout", "1", "--request-timeout-action", "cancel")


@pytest.mark.parametrize("worker_class", ASYNCHRONOUS)
def test_a_request_of_an_event_loop_can_be_cancelled_and_its_worker_goes_on(serve, worker_class):
    server = serve(*CANCEL, "--", "-k", worker_class, workers=1)
    server.wait_ready()
    pid = server.slot(1)["pid"]
    others = Clients(server)
    others.ask("/extended?seconds=3")
    late = server.get("/wait?seconds=60")
    assert (late.status, late.body) == (504, "The request took too long.\n")
    assert others.join() == [200], "it has extended its limit"
    assert server.statuses(3) == {200: 3}
    assert server.slot(1)["pid"] == pid
    server.wait("an empty register", lambda _: in_hand(server) == [])
    assert server.slot(1)["errors_5xx"] == 1


@pytest.mark.parametrize("path", ["/slow?seconds=60", "/blocked-loop"])
def test_a_request_that_cannot_be_cancelled_ends_with_its_worker(serve, path):
    server = serve(*CANCEL, "--", "-k", "asgi", "--timeout", "60", workers=2)
    server.wait_ready()
    asking = Clients(server)
    asking.ask(path)
    server.wait_event("exited")
    assert server.events("retiring")[0]["rule"] == "request-timeout"
    assert asking.join() == [None]
    assert server.statuses(3) == {200: 3}


def test_it_can_only_be_reported(serve):
    server = serve("--request-timeout", "0.5", "--request-timeout-action", "report", workers=1)
    server.wait_ready()
    asking = Clients(server)
    asking.ask("/slow?seconds=4")
    server.wait("the finding", lambda status: "overdue" in status["slots"][0]["notes"])
    assert asking.join() == [200]
    server.wait("it is over", lambda status: "overdue" not in status["slots"][0]["notes"])
    assert not server.events("retiring")


def test_the_stack_of_a_slow_request_is_written_once_and_it_goes_on(serve, worker_class):
    server = serve("--slow-request", "0.5", "--", "-k", worker_class, *threads(worker_class))
    server.wait_ready()
    path = (
        "/wait?seconds=4" if worker_class in ("asgi", "uvicorn_worker.UvicornWorker") else "/slow?seconds=4"
    )
    asking = Clients(server)
    asking.ask(path)
    server.wait_event("slow-request")
    assert asking.join() == [200]
    (event,) = server.events("slow-request")
    assert event["path"] == path.partition("?")[0]
    assert re.search(r"views\.py:\d+ (slow|_waits_inside)", event["stack"])
    assert f"GET {event['path']} has run for " in server.log
    assert not server.events("exited")


def test_of_many_slow_requests_one_a_second_is_written_and_the_others_are_counted(serve):
    server = serve("--slow-request", "0.5", "--", "-k", "gthread", "--threads", "8", workers=1)
    server.wait_ready()
    asking = Clients(server)
    for number in range(6):
        asking.ask(f"/slow?seconds=4&number={number}")
        time.sleep(0.05)
    server.wait("the first", lambda _: server.events("slow-request"))
    time.sleep(1.2)
    asking.ask("/slow?seconds=2")
    assert asking.join() == [200] * 7
    server.wait_event("slow-request", count=2)
    written = server.events("slow-request")
    assert len(written) + sum(event.get("left_out", 0) for event in written) == 7


# the view that hangs, and the seconds between two requests for it: some hang with their thread, some with their worker
HANGS = {
    "sync": ("/hang", 4.0),
    "gthread": ("/deadlock", 0.3),
    "gevent": ("/deadlock", 0.3),
    "asgi": ("/blocked-loop", 4.0),
    "uvicorn_worker.UvicornWorker": ("/deadlock", 0.3),
}


@pytest.mark.parametrize("worker_class", HANGS)
def test_a_view_that_hangs_for_ever_costs_only_its_own_requests(serve, worker_class):
    server = serve(
        *("--request-timeout", "2"), *("--", "-k", worker_class, *threads(worker_class)), workers=4
    )
    server.wait_ready()
    path, pause = HANGS[worker_class]
    statuses: list[int | None] = []
    hanging: list[int | None] = []
    over = time.monotonic() + 10

    def ask(path: str, into: list[int | None], pause: float) -> None:
        while time.monotonic() < over:
            try:
                into.append(server.get(f"{path}?how=lock", timeout=60).status)
            except (OSError, HTTPException):
                into.append(None)
            time.sleep(pause)

    clients = [threading.Thread(target=ask, args=("/", statuses, 0.03)) for _ in range(4)]
    clients.append(threading.Thread(target=ask, args=(path, hanging, pause)))
    least = server.status()["ready"]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients[:4]):
        least = min(least, server.status()["ready"])
        time.sleep(0.05)
    clients[-1].join(60)
    failed = sum(status != 200 for status in statuses)
    assert failed <= 0.01 * len(statuses), (failed, len(statuses))
    assert least >= 3
    assert any(status != 200 for status in hanging), "a worker was replaced for it"
    lost = [event["path"] for event in server.events("request-lost")]
    if (
        worker_class != "asgi"
    ):  # a loop that is blocked has requests that it has not read, or has answered but not ended
        assert lost.count("/") == failed
    assert lost.count(path) == sum(status != 200 for status in hanging)


@pytest.mark.parametrize("bind", [(), ("--bind", "127.0.0.1:0")], ids=["unix", "tcp"])
def test_a_worker_whose_threads_are_all_busy_with_requests_that_do_not_end_is_found(serve, bind):
    """Its main thread accepts on, so the kernel's backlog of TCP is empty all the time."""
    server = serve(*bind, "--", "-k", "gthread", "--threads", "2", "--timeout", "1", workers=1)
    server.wait_ready()
    asking = Clients(server)
    asking.ask("/slow?seconds=5")
    server.wait("one thread", lambda status: status["slots"][0]["oldest_request"])
    time.sleep(1.5)
    assert not assess(server.status()), "the other thread is free"
    asking.ask("/slow?seconds=5")
    time.sleep(1.5)
    assert not assess(server.status()), "nobody waits"
    asking.ask("/")
    server.wait("it waits for a thread", lambda status: status["slots"][0]["waiting"] == 1)
    status = server.wait("the finding", assess)
    (finding,) = assess(status)
    assert finding.code == "worker-stuck"
    assert "such as GET /slow" in finding.text
    assert asking.join() == [200, 200, 200]
    server.wait("it is over", lambda status: not assess(status) and not status["slots"][0]["waiting"])


# more calls than a default executor has threads
MANY = min(32, (os.cpu_count() or 1) + 4) + 2


@pytest.mark.parametrize("worker_class", ASYNCHRONOUS)
def test_a_worker_whose_executor_is_full_is_found(serve, worker_class):
    server = serve("--", "-k", worker_class, "--timeout", "3", workers=1)
    server.wait_ready()
    asking = Clients(server)
    asking.ask("/pooled?seconds=4")
    server.wait("in hand", lambda _: in_hand(server))
    assert asking.join() == [200]
    assert "worker-stuck" not in {found.code for found in assess(server.status())}, "there are other threads"
    for _ in range(MANY):
        asking.ask("/pooled?seconds=5")
    status = server.wait(
        "the finding", lambda status: "worker-stuck" in {found.code for found in assess(status)}
    )
    assert "stalled" in status["slots"][0]["notes"]
    assert "executor of the event loop, and none begins" in assess(status)[0].text
    assert server.get("/").status == 200, "a synchronous view has a thread of its own"
    assert set(asking.join()) == {200}
    server.wait("it is over", lambda status: not assess(status))
    assert not server.events("retiring")


@pytest.mark.parametrize("action", ["replace", "cancel"])
def test_a_worker_whose_executor_is_full_is_replaced(serve, action):
    server = serve(
        *("--request-timeout", "1", "--request-timeout-action", action, "--worker-reload-mercy", "2"),
        *("--", "-k", "asgi", "--timeout", "60"),
    )
    server.wait_ready()
    asking = Clients(server)
    for _ in range(MANY):
        asking.ask("/pooled?seconds=50")

    def still_fails(_) -> bool:
        asking.ask("/pooled?seconds=50")  # those that were cancelled wait no longer
        return not server.events("exited")

    server.wait("a worker has been replaced", lambda status: not still_fails(status))
    assert {event["rule"] for event in server.events("retiring")} == {"request-timeout"}
    server.wait_ready()
    assert server.statuses(6) == {200: 6}


def test_a_worker_whose_websockets_wait_for_one_thread_is_found(serve):
    server = serve("--app", "guinea_asgi:application", "--", "-k", "asgi", "--timeout", "3", workers=1)
    server.wait_ready()
    with contextlib.ExitStack() as opened:
        for _ in range(2):
            connection = unix_connect(str(server.socket_path), "ws://localhost/shared-thread")
            opened.enter_context(connection)
        server.wait("the finding", lambda status: "worker-stuck" in {found.code for found in assess(status)})
        server.wait("it is over", lambda status: not assess(status))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--slow-request", "5", "--request-timeout", "5"),
            "slow-request: a slow request is written down after 5 s, but request-timeout replaces its worker after 5 s",
        ),
        (CANCEL, "a request of the worker class sync cannot be cancelled: Python cannot stop a thread"),
        (("--request-timeout", "soon"), "request-timeout: 'soon' is not a duration"),
        (("--request-timeout-action", "kill"), "request-timeout-action: 'kill'"),
        (("--duration-buckets", "1,0.5"), "each above the one before"),
    ],
)
def test_contradictions_are_refused(serve, arguments, says):
    server = serve(*arguments)
    assert server.wait_exit() == 2
    assert says in server.log


def test_a_sync_worker_that_gunicorns_timeout_ends_first_is_warned_of(serve):
    server = serve("--request-timeout", "60", "--", "--timeout", "30")
    server.wait_ready()
    assert (
        "gunicorn's timeout of 30 s ends a sync worker, without a successor, before request-timeout"
        in server.log
    )
