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
from tests.process.clients import Clients, in_hand
from tests.process.harness import Server, Since, threads, wait_whole

# what the client of an aborted request gets; otherwise the connection is reset
ABORTED = {"sync": 500}


ASYNCHRONOUS = ("asgi", "uvicorn_worker.UvicornWorker")
# the view that hangs, and the seconds between two requests for it: some hang with their thread, some with their worker
HANGS = {
    "sync": ("/hang", 4.0),
    "gthread": ("/deadlock", 0.3),
    "gevent": ("/deadlock", 0.3),
    "asgi": ("/blocked-loop", 4.0),
    "uvicorn_worker.UvicornWorker": ("/deadlock", 0.3),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("worker_class", HANGS)
def test_requests_that_run_too_long_cost_their_worker_alone(serve, worker_class, subtests):
    server = serve("--request-timeout", "2", "--", "-k", worker_class, *threads(worker_class), workers=4)
    wait_whole(server, 4)
    with subtests.test("the worker is replaced once its successor is ready"):
        assert_replaced_once_its_successor_is_ready(server, worker_class)
    wait_whole(server, 4)
    with subtests.test("a view that hangs for ever costs only its own requests"):
        assert_only_the_requests_that_hang_are_lost(server, worker_class)


def assert_replaced_once_its_successor_is_ready(server: Server, worker_class: str) -> None:
    since, asking = Since(server), Clients(server)
    asking.ask("/slow?seconds=60")
    server.wait("in hand", lambda _: in_hand(server))
    slot, gone = in_hand(server)[0]["slot"], in_hand(server)[0]["pid"]
    since.wait("exited")
    (retiring,) = since.events("retiring")
    assert (retiring["pid"], retiring["rule"]) == (gone, "request-timeout")
    assert "GET /slow" in retiring["reason"]
    ready = next(event for event in since.events("ready") if event["slot"] == slot and event["pid"] != gone)
    assert ready["number"] < retiring["number"], "the successor was ready first"
    (aborted,) = since.events("aborted")
    assert aborted["rule"] == "request-timeout"
    (lost,) = since.events("request-lost")
    assert (lost["path"], lost["cause"]) == ("/slow", "request-timeout")
    assert "in slow" in server.slot(slot)["last_error"]["traceback"]
    assert asking.join() == [ABORTED.get(worker_class)]
    assert server.statuses(6) == {200: 6}


def assert_only_the_requests_that_hang_are_lost(server: Server, worker_class: str) -> None:
    since = Since(server)
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
    lost_ones = sum(status != 200 for status in hanging)
    server.wait(
        "the lost ones are written down",
        lambda _: [event["path"] for event in since.events("request-lost")].count(path) >= lost_ones,
    )
    lost = [event["path"] for event in since.events("request-lost")]
    if worker_class != "asgi":  # a loop that is blocked has requests that it has not read
        # a worker may be aborted between the last byte of an answer and the end of its request
        assert failed <= lost.count("/") <= failed + len(since.events("aborted"))
    assert lost.count(path) == lost_ones


@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "asgi"])
def test_what_else_a_worker_does_while_a_request_runs_too_long(serve, worker_class, subtests):
    server = serve(
        *("--request-timeout", "8", "--worker-reload-mercy", "30"),
        *("--", "-k", worker_class, *threads(worker_class), "--timeout", "60"),
        workers=1,
    )
    wait_whole(server, 1)
    with subtests.test("its other requests are finished"):
        hanging, others = Clients(server), Clients(server)
        hanging.ask("/slow?seconds=60" if worker_class != "asgi" else "/wait?seconds=60")
        server.wait_event("spawned", count=2)
        others.ask("/stream?lines=30")  # six seconds
        server.wait_event("exited")
        lost = {event["path"] for event in server.events("request-lost")}
        assert lost == {"/slow" if worker_class != "asgi" else "/wait"}
        assert others.join() == [200]
        assert hanging.join() == [None]
    if worker_class != "gevent":
        return
    wait_whole(server, 1)
    with subtests.test("it is aborted in the greenlet of a request and ends at once"):
        since, asking = Since(server), Clients(server)
        asking.ask("/hang?how=computing")
        since.wait("exited")
        assert asking.join() == [None]
        assert since.events("exited")[0]["end"] == "exit code 1"


@pytest.mark.timeout(300)
def test_slow_requests_and_a_view_with_a_limit_of_its_own(serve, worker_class, subtests):
    more = ("--threads", "8") if worker_class == "gthread" else ()
    server = serve("--slow-request", "0.5", "--", "-k", worker_class, *more, "--timeout", "60", workers=1)
    wait_whole(server, 1)

    with subtests.test("the stack of a slow request is written once, and it goes on"):
        path = "/wait?seconds=4" if worker_class in ASYNCHRONOUS else "/slow?seconds=4"
        asking = Clients(server)
        asking.ask(path)
        server.wait_event("slow-request")
        assert asking.join() == [200]
        (event,) = server.events("slow-request")
        assert event["path"] == path.partition("?")[0]
        assert re.search(r"views\.py:\d+ (slow|_waits_inside)", event["stack"])
        assert f"GET {event['path']} has run for " in server.log
        assert not server.events("exited")

    if worker_class == "gthread":
        with subtests.test("of many, one a second is written, and the others are counted"):
            since, asking = Since(server), Clients(server)
            for number in range(6):
                asking.ask(f"/slow?seconds=4&number={number}")
                time.sleep(0.05)
            server.wait("the first", lambda _: since.events("slow-request"))
            time.sleep(1.2)
            asking.ask("/slow?seconds=2")
            assert asking.join() == [200] * 7
            since.wait("slow-request", count=2)
            written = since.events("slow-request")
            assert len(written) + sum(event.get("left_out", 0) for event in written) == 7

    # there is no request-timeout
    with subtests.test("a view has a limit of its own, and a request can extend it"):
        since = Since(server)
        assert server.get("/extended?seconds=8").status == 200
        assert not since.events("retiring")
        asking = Clients(server)
        asking.ask("/limited?seconds=60")
        since.wait("exited")
        assert since.events("request-lost")[0]["view"] == "guinea_app.views.limited"
        assert asking.join() == [ABORTED.get(worker_class)]


CANCEL = ("--request-timeout", "4", "--request-timeout-action", "cancel")
# more calls than a default executor has threads
MANY = min(32, (os.cpu_count() or 1) + 4) + 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("worker_class", ASYNCHRONOUS)
def test_a_request_of_an_event_loop_can_be_cancelled(serve, worker_class, subtests):
    server = serve(
        *CANCEL, "--worker-reload-mercy", "2", "--", "-k", worker_class, "--timeout", "60", workers=1
    )
    wait_whole(server, 1)

    with subtests.test("its worker goes on"):
        pid = server.slot(1)["pid"]
        others = Clients(server)
        others.ask("/extended?seconds=8")
        late = server.get("/wait?seconds=60")
        assert (late.status, late.body) == (504, "The request took too long.\n")
        assert others.join() == [200], "it has extended its limit"
        assert server.statuses(3) == {200: 3}
        assert server.slot(1)["pid"] == pid
        server.wait("an empty register", lambda _: in_hand(server) == [])
        assert server.slot(1)["errors_5xx"] == 1
    if worker_class != "asgi":
        return

    for path in ("/slow?seconds=60", "/blocked-loop"):
        with subtests.test("one that cannot be cancelled ends with its worker", path=path):
            since, asking = Since(server), Clients(server)
            asking.ask(path)
            since.wait("exited")
            assert since.events("retiring")[0]["rule"] == "request-timeout"
            assert asking.join() == [None]
            assert server.statuses(3) == {200: 3}
        wait_whole(server, 1)

    with subtests.test("a worker whose executor is full is replaced"):
        assert_replaced_when_its_executor_is_full(server)


def test_a_worker_whose_executor_is_full_is_replaced(serve):
    server = serve(
        *("--request-timeout", "1", "--request-timeout-action", "replace", "--worker-reload-mercy", "2"),
        *("--", "-k", "asgi", "--timeout", "60"),
        workers=1,
    )
    server.wait_ready()
    assert_replaced_when_its_executor_is_full(server)


def assert_replaced_when_its_executor_is_full(server: Server) -> None:
    since, asking = Since(server), Clients(server)
    for _ in range(MANY):
        asking.ask("/pooled?seconds=50")

    def still_fails(_) -> bool:
        asking.ask("/pooled?seconds=50")  # those that were cancelled wait no longer
        return not since.events("exited")

    server.wait("a worker has been replaced", lambda status: not still_fails(status))
    assert {event["rule"] for event in since.events("retiring")} == {"request-timeout"}
    server.wait_ready()
    assert server.statuses(6) == {200: 6}


def test_it_can_only_be_reported(serve):
    server = serve("--request-timeout", "0.5", "--request-timeout-action", "report", workers=1)
    server.wait_ready()
    asking = Clients(server)
    asking.ask("/slow?seconds=10")
    server.wait("the finding", lambda status: "overdue" in status["slots"][0]["notes"])
    assert asking.join() == [200]
    server.wait("it is over", lambda status: "overdue" not in status["slots"][0]["notes"])
    assert not server.events("retiring")


@pytest.mark.parametrize("bind", [(), ("--bind", "127.0.0.1:0")], ids=["unix", "tcp"])
def test_a_worker_whose_threads_are_all_busy_with_requests_that_do_not_end_is_found(serve, bind):
    """Its main thread accepts on, so the kernel's backlog of TCP is empty all the time."""
    server = serve(*bind, "--", "-k", "gthread", "--threads", "2", "--timeout", "5", workers=1)
    server.wait_ready()
    asking = Clients(server)
    # longer than the timeout and a tick, after which the arbiter has seen it
    asking.ask("/slow?seconds=25")
    server.wait("a long request", lambda _: [one["age"] > 6.2 for one in in_hand(server)] == [True])
    assert not assess(server.status()), "the other thread is free"
    asking.ask("/slow?seconds=25")
    server.wait("two of them", lambda _: [one["age"] > 6.2 for one in in_hand(server)] == [True, True])
    assert not assess(server.status()), "no other request waits"
    asking.ask("/")
    server.wait("it waits for a thread", lambda status: status["slots"][0]["waiting"] == 1)
    status = server.wait("the finding", assess)
    (finding,) = assess(status)
    assert finding.code == "worker-stuck"
    assert "such as GET /slow" in finding.text
    assert asking.join() == [200, 200, 200]
    server.wait("it is over", lambda status: not assess(status) and not status["slots"][0]["waiting"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("worker_class", ASYNCHRONOUS)
def test_a_worker_whose_loop_waits_for_threads_is_found(serve, worker_class, subtests):
    application = ("--app", "guinea_asgi:application") if worker_class == "asgi" else ()
    server = serve(*application, "--", "-k", worker_class, "--timeout", "6", workers=1)
    server.wait_ready()

    with subtests.test("its executor is full"):
        asking = Clients(server)
        asking.ask("/pooled?seconds=4")
        server.wait("in hand", lambda _: in_hand(server))
        assert asking.join() == [200]
        assert "worker-stuck" not in {found.code for found in assess(server.status())}, (
            "there are other threads"
        )
        for _ in range(MANY):
            asking.ask("/pooled?seconds=13")
        status = server.wait(
            "the finding", lambda status: "worker-stuck" in {found.code for found in assess(status)}
        )
        assert "stalled" in status["slots"][0]["notes"]
        assert "executor of the event loop, and none begins" in assess(status)[0].text
        assert server.get("/").status == 200, "a synchronous view has a thread of its own"
        assert set(asking.join()) == {200}
        server.wait("it is over", lambda status: not assess(status))
        assert not server.events("retiring")
    if worker_class != "asgi":
        return

    with subtests.test("its websockets wait for one thread"), contextlib.ExitStack() as opened:
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
    server = serve("--request-timeout", "60", "--", "--timeout", "30", workers=1)
    server.wait_ready()
    assert (
        "gunicorn's timeout of 30 s ends a sync worker, without a successor, before request-timeout"
        in server.log
    )
