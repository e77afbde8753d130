"""Signals, the stand-in, need-app, draining and mercy, on every worker class where it can differ."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from tests.journal import least_ready
from tests.process.clients import PAUSE, OneRequest, in_flight
from tests.process.commands import workerguard
from tests.process.harness import Server, Since, threads, wait_whole


def kill_all(server: Server) -> None:
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_reloads_a_fleet_that_cannot_load_and_an_arbiter_that_is_killed(
    worker_class, serve, faults, subtests
):
    server = serve("-k", worker_class, "--stand-in-after", "500ms")
    wait_whole(server)

    with subtests.test("a reload replaces every worker, costs no request and finishes the stream in hand"):
        since, before = Since(server), set(server.pids())
        client = OneRequest(
            server, "/stream?lines=20"
        )  # four seconds, longer than the loads of the successors
        server.wait("a stream in flight", in_flight)
        server.signal(signal.SIGHUP)
        statuses = set()
        while any(slot["generation"] == 1 or slot["state"] != "ready" for slot in server.status()["slots"]):
            statuses |= set(server.statuses(3))
            time.sleep(PAUSE)
        assert statuses <= {200}
        assert not before & set(server.pids())
        assert all(event["ready"] == 2 for event in since.events("ready"))
        client.join(20)
        assert client.reply is not None
        assert client.reply.body.count("line") == 20
    wait_whole(server)

    with subtests.test("the stand-in answers while no worker can, and stops before one does"):
        since = Since(server)
        faults.set("ready", "memory")
        kill_all(server)
        server.wait("the stand-in", lambda status: status["stand_in"])
        reply = server.get("/")
        assert (reply.status, int(reply.headers["retry-after"]) > 0) == (503, True)
        assert server.get("/health/live/").status == 200
        assert server.get("/health/ready/").status == 503
        out_since = [slot["since"] for slot in server.status()["slots"]]
        failed = len(since.events("load-failed"))
        since.wait("load-failed", count=failed + 2)
        assert [slot["since"] for slot in server.status()["slots"]] == out_since, (
            "not the age of the last try"
        )

        faults.clear()
        server.wait_ready()
        assert server.statuses(20) == {200: 20}
        duty, ready = since.events("duty"), since.events("ready")
        off = next(event["number"] for event in duty if not event["on"])
        assert off < ready[-2]["number"], "it stopped before the first worker was ready again"
    faults.clear()
    wait_whole(server)

    with subtests.test("workers do not outlive an arbiter that was killed"):
        pids = server.pids()
        server.signal(signal.SIGKILL)
        server._poll(
            "the end of the workers", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20
        )


def test_without_a_stand_in_connections_wait(serve, faults):
    server = serve("--stand-in", "off", workers=1)
    server.wait_ready()
    faults.set("ready", "memory", 2)
    kill_all(server)
    client = OneRequest(server, "/")
    server.wait_event("ready", count=2)
    client.join(60)
    assert client.reply is not None
    assert client.reply.status == 200


@pytest.mark.timeout(300)
def test_need_app_off_and_drain_delay(worker_class, serve, faults, subtests):
    server = serve("-k", worker_class, "--need-app", "off", "--load-retries", "1", "--drain-delay", "60s")
    wait_whole(server)

    with subtests.test("need-app off keeps the unloaded worker out of the way"):
        faults.set("ready", "memory")
        first, second = server.pids()
        os.kill(first, signal.SIGKILL)
        server.wait("unloaded", lambda status: status["slots"][0]["state"] == "unloaded")
        assert server.statuses(20) == {200: 20}

        os.kill(second, signal.SIGKILL)
        server.wait(
            "both unloaded", lambda status: all(slot["state"] == "unloaded" for slot in status["slots"])
        )
        reply = server.get("/")
        assert (reply.status, "retry-after" in reply.headers) == (503, True)

        faults.clear()
        server.signal(signal.SIGHUP)
        server.wait_ready()
        assert server.statuses(20) == {200: 20}
    faults.clear()
    wait_whole(server)

    with subtests.test("drain-delay serves on, with ready/ false"):
        server.signal(signal.SIGTERM)
        server.wait("draining", lambda status: status["arbiter"]["phase"] == "draining")
        assert server.get("/").status == 200
        assert server.get("/health/ready/").status == 503
        assert server.get("/health/live/").status == 200
        server.signal(signal.SIGINT)  # it has been long enough
        assert server.wait_exit() == 0


def test_without_a_surge_an_unloaded_worker_is_the_first_to_be_replaced(serve, faults, subtests):
    server = serve("--need-app", "off", "--load-retries", "1", "--surge", "0", workers=3)
    server.wait_ready()

    def unload_one() -> None:
        faults.set("ready", "memory")
        os.kill(server.slot(1)["pid"], signal.SIGKILL)
        server.wait("unloaded", lambda status: status["slots"][0]["state"] == "unloaded")

    with subtests.test("recycle"):
        unload_one()
        faults.clear()
        assert workerguard("recycle", "1", "--wait", run_dir=server.run_dir).returncode == ExitCode.OK
    with subtests.test("a reload"):
        unload_one()
        ready = [server.slot(number)["pid"] for number in (2, 3)]
        server.signal(signal.SIGHUP)
        server.wait("frozen", lambda status: status["arbiter"]["frozen"])
        assert server.status()["ready"] == 2
        assert [server.slot(number)["pid"] for number in (2, 3)] == ready, (
            "none of the ready workers has left for code that cannot be loaded"
        )
        faults.clear()
        server.wait_event("reloaded")
        server.wait_ready()
    assert server.statuses(10) == {200: 10}
    assert least_ready(server.events()) == 2


def test_need_app_server_ends_the_server_with_22(serve, faults):
    server = serve("--need-app", "true", "--load-retries", "2")
    server.wait_ready()
    faults.set("ready", "memory")
    os.kill(server.pids()[0], signal.SIGKILL)
    assert server.wait_exit() == ExitCode.LOAD_FAILED
    assert "need-app: slot 1 could not load" in server.log


def test_need_app_worker_ends_a_server_that_nobody_could_ever_load(serve, faults):
    faults.set("ready", "exception")
    server = serve("--load-retries", "2", "--load-retry-delay", "50ms")
    assert server.wait_exit() == ExitCode.LOAD_FAILED
    assert "need-app: no slot could load" in server.log
    assert server.log.count("Traceback") == 1, "identical failures are counted, not repeated"


def test_give_up_after(serve, faults):
    # a few loads fail in that time, not a dozen
    server = serve("--give-up-after", "12s", "--load-retry-delay", "5s", "--load-retry-max-delay", "5s")
    server.wait_ready()
    faults.set("ready", "memory")
    kill_all(server)
    assert server.wait_exit() == ExitCode.LOAD_FAILED
    assert "give-up-after" in server.log


@pytest.mark.timeout(300)
def test_the_first_probe_and_a_stop_that_is_bounded_by_mercy(worker_class, serve, subtests):
    server = serve("--worker-reload-mercy", "15s", "--", "-k", worker_class, *threads(worker_class))

    def first_answer() -> int:
        try:
            return server.get("/health/ready/", timeout=60).status
        except (FileNotFoundError, ConnectionRefusedError):
            return 0  # it does not listen yet

    # it waits in the backlog until the first worker accepts, which is ready then, counted by the arbiter or not
    with subtests.test("the first answer of the probe is right"):
        answers: list[int] = []
        server._poll("an answer", lambda: answers.append(first_answer()) or answers[-1], 60)
        assert answers[-1] == 200
        assert server.get("/health/startup/").status == 200
    wait_whole(server)

    with subtests.test("a stop finishes a request in hand; mercy bounds it and shows the stacks"):
        OneRequest(server, "/slow?seconds=50")
        server.wait("a request in flight", in_flight)
        client = OneRequest(server, "/slow?seconds=5")
        server.wait("two", lambda status: sum(slot["in_flight"] for slot in status["slots"]) == 2)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        client.join(20)
        assert client.reply is not None
        assert client.reply.status == 200
        assert "worker-reload-mercy: 15 s" in server.log
        assert "guinea_app/views.py" in server.log


@pytest.mark.timeout(300)
def test_an_only_worker_that_leaves_and_a_quick_stop(worker_class, serve, subtests):
    server = serve("-k", worker_class, "--worker-reload-mercy", "60s", workers=1)
    wait_whole(server, 1)

    if worker_class == "gthread":
        with subtests.test("requests are counted on while a worker leaves"):
            server.statuses(5)
            client = OneRequest(server, "/slow?seconds=20")
            server.wait("six", lambda status: status["slots"][0]["requests"] == 5 and in_flight(status))
            server.signal(signal.SIGHUP)
            server.wait_event("ready", count=2)
            status = server.wait("the successor alone", lambda status: status["slots"][0]["generation"] == 2)
            assert status["slots"][0]["requests"] >= 5
            assert status["slots"][0]["in_flight"] == 1, "what a leaving worker has in hand is shown"
            client.join(60)
            server.wait("six in all", lambda status: status["slots"][0]["requests"] == 6)
        wait_whole(server, 1)

    with subtests.test("a worker that is stopped by somebody else is succeeded while it drains"):
        since, before = Since(server), server.slot(1)["pid"]
        client = OneRequest(server, "/slow?seconds=12")
        server.wait("a request in flight", in_flight)
        os.kill(before, signal.SIGTERM)
        ready = since.wait("ready")
        exited = since.wait("exited", lambda event: event["pid"] == before)
        client.join(60)
        assert client.reply is not None
        assert (client.reply.status, client.reply.pid) == (200, before)
        assert ready["number"] < exited["number"], "the successor was ready before it had gone"
        assert exited["rule"] == "left"
    wait_whole(server, 1)

    with subtests.test("a quick stop"):
        OneRequest(server, "/slow?seconds=50")
        server.wait("a request in flight", in_flight)
        server.signal(signal.SIGINT)
        assert server.wait_exit(20) == 0


@pytest.mark.timeout(300)
def test_what_signals_change_and_a_second_arbiter(serve, faults, subtests):
    server = serve("--", "--pid", "server.pid", project_copy=True)
    wait_whole(server)

    with subtests.test("a reload of code that cannot be loaded changes nothing"):
        since, before = Since(server), server.pids()
        faults.set("urlconf", "exception")
        server.signal(signal.SIGHUP)
        since.wait("load-failed", count=3)
        assert server.pids() == before
        assert server.statuses(20) == {200: 20}
        faults.clear()
        server.wait(
            "the new generation", lambda status: all(slot["generation"] == 2 for slot in status["slots"])
        )
    faults.clear()
    wait_whole(server)

    with subtests.test("SIGTTIN and SIGTTOU change the number of workers"):
        server.signal(signal.SIGTTIN)
        server.wait_ready(3)
        server.signal(signal.SIGTTOU)
        server.wait("two workers", lambda status: status["target"] == 2)
        server.signal(signal.SIGTTOU)
        server.wait("one worker", lambda status: status["target"] == 1 and len(status["slots"]) == 1)
        server.signal(signal.SIGTTOU)
        server.wait_log("the target stays 1")
        assert server.get("/").status == 200
    server.signal(signal.SIGTTIN)
    wait_whole(server)

    with subtests.test("SIGTTOU spares the only worker that can serve"):
        since = Since(server)
        faults.set("ready", "exception")
        os.kill(server.slot(1)["pid"], signal.SIGKILL)
        since.wait("load-failed")
        server.signal(signal.SIGTTOU)
        server.wait("the smaller target", lambda status: status["target"] == 1)
        since.wait("load-failed", count=3)
        assert server.statuses(10) == {200: 10}
        faults.clear()
        server.wait("slot 1 alone", lambda status: status["ready"] == 1 and len(status["slots"]) == 1)
    faults.clear()
    server.signal(signal.SIGTTIN)
    wait_whole(server)

    with subtests.test("SIGUSR2 runs two servers, each with its own board"):
        old = server.arbiter
        server.signal(signal.SIGUSR2)
        status = server.wait(
            "the second", lambda status: status["arbiter"]["pid"] != old and status["ready"] == 2
        )
        new = status["arbiter"]["pid"]
        assert server.status(old)["ready"] == 2
        assert (server.project / "server.pid").read_text().strip() == str(old)
        assert (server.project / "server.pid.2").read_text().strip() == str(new)

        os.kill(old, signal.SIGTERM)
        assert server.wait_exit() == 0
        assert server.statuses(10) == {200: 10}
        server.wait_log("Master has been promoted")
        os.kill(new, signal.SIGTERM)
        server._poll("the end of the second", lambda: not Path(f"/proc/{new}").exists(), 20)
        assert not list(server.run_dir.glob("*.board"))
        assert not server.socket_path.exists(), "the last of the two removes the file that they shared"


@pytest.mark.timeout(300)
def test_an_arbiter_that_is_suspended_or_whose_log_is_moved_and_the_board_that_it_leaves(
    serve, faults, tmp_path, subtests
):
    log = tmp_path / "error.log"
    server = serve(
        *("--timeout", "8", "--stand-in-after", "500ms", "--load-timeout", "6s"),
        *("--", "--error-logfile", str(log)),
    )
    wait_whole(server)

    with subtests.test("a suspended arbiter blames nobody"):
        since = Since(server)
        before, beat = server.pids(), server.status()["arbiter"]["beat_age"]
        server.signal(signal.SIGSTOP)
        server.wait("silence", lambda status: status["arbiter"]["beat_age"] > 12)
        server.signal(signal.SIGCONT)
        server.wait("ticks", lambda status: status["arbiter"]["beat_age"] < max(1.5, beat))
        assert server.pids() == before
        assert not since.events("aborted")
    server.signal(signal.SIGCONT)
    wait_whole(server)

    with subtests.test("the stand-in answers on while a reload tries to load"):
        since = Since(server)
        faults.set("ready", "memory")
        kill_all(server)
        server.wait("the stand-in", lambda status: status["stand_in"])
        faults.set("ready", "hang")
        server.signal(signal.SIGHUP)
        since.wait("reload")
        server.wait("its load", lambda status: any(slot["step"] for slot in status["slots"]))
        assert server.get("/").status == 503
        assert all(event["on"] for event in since.events("duty")), "it has not stopped in between"
        faults.clear()
        server.wait_ready()
        assert server.statuses(5) == {200: 5}
    faults.clear()
    wait_whole(server)

    with subtests.test("SIGUSR1 reopens the log"):
        log.rename(tmp_path / "error.log.1")
        server.signal(signal.SIGUSR1)
        server._poll("a new log", log.exists, 20)
        os.kill(server.pids()[0], signal.SIGKILL)
        server._poll("a line in it", lambda: "killed by SIGKILL" in log.read_text(), 20)
        assert server.statuses(10) == {200: 10}
    wait_whole(server)

    with subtests.test("a stale board does not stop the next start"):
        server.signal(signal.SIGKILL)
        server.wait_exit()
        stale = list(server.run_dir.glob("*.board"))
        assert stale
        second = serve(run_dir=server.run_dir, workers=1)
        second.wait_ready()
        assert not stale[0].exists()


@pytest.mark.parametrize("count", [8])
def test_after_a_failed_load_only_one_loads_at_a_time(serve, faults, count):
    faults.set("ready", "memory", 2)
    server = serve("-w", str(count), "--load-concurrency", "4")
    server.wait_ready()
    loading, most = set(), 0
    failed = False
    for event in server.events():
        match event["event"]:
            case "spawned":
                loading.add(event["pid"])
                most = max(most, len(loading)) if failed else most
            case "load-failed":
                failed = True
                loading.discard(event["pid"])
            case "ready":
                loading.discard(event["pid"])
                failed = False
    assert most <= 1
