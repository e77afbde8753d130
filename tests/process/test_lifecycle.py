"""Signals, the stand-in, need-app, draining and mercy, on every worker class where it can differ."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import Reply, Server


class Client(threading.Thread):
    """One request in the background."""

    def __init__(self, server: Server, path: str) -> None:
        super().__init__(daemon=True)
        self._server, self._path = server, path
        self.reply: Reply | None = None
        self.start()

    def run(self) -> None:
        try:
            self.reply = self._server.get(self._path, timeout=60)
        except OSError:
            self.reply = None


def in_flight(status: dict) -> bool:
    return any(slot["in_flight"] for slot in status["slots"])


def test_the_stand_in_answers_while_nobody_can_and_stops_before_anybody_does(worker_class, serve, faults):
    server = serve("-k", worker_class, "--stand-in-after", "500ms")
    server.wait_ready()
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)

    server.wait("the stand-in", lambda status: status["stand_in"])
    reply = server.get("/")
    assert (reply.status, int(reply.headers["retry-after"]) > 0) == (503, True)
    assert server.get("/health/live/").status == 200
    assert server.get("/health/ready/").status == 503

    faults.clear()
    server.wait_ready()
    assert server.statuses(20) == {200: 20}
    duty, ready = server.events("duty"), server.events("ready")
    off = next(event["number"] for event in duty if not event["on"])
    assert off < ready[-2]["number"], "it stopped before the first worker was ready again"


def test_the_stand_in_answers_on_while_a_reload_tries_to_load(serve, faults):
    server = serve("--stand-in-after", "500ms", "--load-timeout", "3s")
    server.wait_ready()
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    server.wait("the stand-in", lambda status: status["stand_in"])
    faults.set("ready", "hang")
    server.signal(signal.SIGHUP)
    server.wait_event("reload")
    server.wait("its load", lambda status: any(slot["step"] for slot in status["slots"]))
    assert server.get("/").status == 503
    assert all(event["on"] for event in server.events("duty")), "it has not stopped in between"
    faults.clear()
    server.wait_ready()
    assert server.statuses(5) == {200: 5}


def test_without_a_stand_in_connections_wait(serve, faults):
    server = serve("--stand-in", "off")
    server.wait_ready()
    faults.set("ready", "memory", 2)
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    client = Client(server, "/")
    server.wait_ready()
    client.join(20)
    assert client.reply is not None
    assert client.reply.status == 200


def test_need_app_off_keeps_the_unloaded_worker_out_of_the_way(worker_class, serve, faults):
    server = serve("-k", worker_class, "--need-app", "off", "--load-retries", "1")
    server.wait_ready()
    faults.set("ready", "memory")
    first, second = server.pids()
    os.kill(first, signal.SIGKILL)
    server.wait("unloaded", lambda status: status["slots"][0]["state"] == "unloaded")
    assert server.statuses(20) == {200: 20}

    os.kill(second, signal.SIGKILL)
    server.wait("both unloaded", lambda status: all(slot["state"] == "unloaded" for slot in status["slots"]))
    reply = server.get("/")
    assert (reply.status, "retry-after" in reply.headers) == (503, True)

    faults.clear()
    server.signal(signal.SIGHUP)
    server.wait_ready()
    assert server.statuses(20) == {200: 20}
    assert server.stop() == 0


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
    server = serve("--give-up-after", "12s")
    server.wait_ready()
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    assert server.wait_exit() == ExitCode.LOAD_FAILED
    assert "give-up-after" in server.log


def test_drain_delay_serves_on_with_ready_false(worker_class, serve):
    server = serve("-k", worker_class, "--drain-delay", "2s")
    server.wait_ready()
    server.signal(signal.SIGTERM)
    server.wait("draining", lambda status: status["arbiter"]["phase"] == "draining")
    assert server.get("/").status == 200
    assert server.get("/health/ready/").status == 503
    assert server.get("/health/live/").status == 200
    assert server.wait_exit() == 0


def test_a_request_in_hand_is_finished(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()
    client = Client(server, "/slow?seconds=1.5")
    server.wait("a request in flight", in_flight)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    client.join(20)
    assert client.reply is not None
    assert client.reply.status == 200


def test_a_stream_in_hand_is_finished(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()
    client = Client(server, "/stream?lines=8")
    server.wait("a stream in flight", in_flight)
    server.signal(signal.SIGHUP)
    server.wait("the new generation", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))
    client.join(20)
    assert client.reply is not None
    assert client.reply.body.count("line") == 8


def test_mercy_bounds_a_stop_and_shows_the_stacks(worker_class, serve):
    server = serve("-k", worker_class, "--worker-reload-mercy", "1s")
    server.wait_ready()
    Client(server, "/slow?seconds=50")
    server.wait("a request in flight", in_flight)
    server.signal(signal.SIGTERM)
    assert server.wait_exit(20) == 0
    assert "worker-reload-mercy: 1 s" in server.log
    assert "guinea_app/views.py" in server.log


def test_a_quick_stop(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()
    Client(server, "/slow?seconds=50")
    server.wait("a request in flight", in_flight)
    server.signal(signal.SIGINT)
    assert server.wait_exit(20) == 0


def test_hup_replaces_every_worker_and_costs_no_request(worker_class, serve):
    server = serve("-k", worker_class)
    before = set(server.wait_ready() and server.pids())
    server.signal(signal.SIGHUP)
    statuses = set()
    while any(slot["generation"] == 1 or slot["state"] != "ready" for slot in server.status()["slots"]):
        statuses |= set(server.statuses(3))
    assert statuses <= {200}
    assert not before & set(server.pids())
    assert all(event["ready"] == 2 for event in server.events("ready")[2:])


def test_hup_with_code_that_cannot_be_loaded_changes_nothing(serve, faults):
    server = serve()
    server.wait_ready()
    before = server.pids()
    faults.set("urlconf", "exception")
    server.signal(signal.SIGHUP)
    server.wait_event("load-failed", count=3)
    assert server.pids() == before
    assert server.statuses(20) == {200: 20}
    faults.clear()
    server.wait("the new generation", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))


def test_ttin_and_ttou(serve):
    server = serve()
    server.wait_ready()
    server.signal(signal.SIGTTIN)
    server.wait_ready(3)
    server.signal(signal.SIGTTOU)
    server.wait("two workers", lambda status: status["target"] == 2)
    server.signal(signal.SIGTTOU)
    server.wait("one worker", lambda status: status["target"] == 1 and len(status["slots"]) == 1)
    server.signal(signal.SIGTTOU)
    server.wait_log("the target stays 1")
    assert server.get("/").status == 200


def test_ttou_spares_the_only_worker_that_can_serve(serve, faults):
    server = serve()
    server.wait_ready()
    faults.set("ready", "exception")
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    server.wait_event("load-failed")
    server.signal(signal.SIGTTOU)
    server.wait("the smaller target", lambda status: status["target"] == 1)
    server.wait_event("load-failed", count=3)
    assert server.statuses(10) == {200: 10}
    faults.clear()
    server.wait("slot 1 alone", lambda status: status["ready"] == 1 and len(status["slots"]) == 1)


def test_a_worker_that_is_stopped_by_somebody_else_is_succeeded_while_it_drains(worker_class, serve):
    server = serve("-k", worker_class, "-w", "1")
    before = server.wait_ready()["slots"][0]["pid"]
    client = Client(server, "/slow?seconds=2")
    server.wait("a request in flight", in_flight)
    os.kill(before, signal.SIGTERM)
    ready = server.wait_event("ready", count=2)
    exited = server.wait_event("exited")
    client.join(20)
    assert client.reply is not None
    assert (client.reply.status, client.reply.pid) == (200, before)
    assert ready["number"] < exited["number"], "the successor was ready before it had gone"
    assert exited["rule"] == "left"


def test_requests_are_counted_on_while_a_worker_leaves(serve):
    server = serve("-w", "1", "-k", "gthread")
    server.wait_ready()
    server.statuses(5)
    client = Client(server, "/slow?seconds=8")
    server.wait("a request in flight", in_flight)
    server.signal(signal.SIGHUP)
    server.wait_event("ready", count=2)
    status = server.wait("the successor alone", lambda status: status["slots"][0]["generation"] == 2)
    assert status["slots"][0]["requests"] >= 5
    assert status["slots"][0]["in_flight"] == 1, "what a leaving worker has in hand is shown"
    client.join(20)
    server.wait("six in all", lambda status: status["slots"][0]["requests"] == 6)


def test_usr2_runs_two_servers_each_with_its_own_board(serve):
    server = serve("--", "--pid", "server.pid", project_copy=True)
    server.wait_ready()
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


def test_usr1_reopens_the_log(serve, tmp_path):
    log = tmp_path / "error.log"
    server = serve("--", "--error-logfile", str(log))
    server.wait_ready()
    log.rename(tmp_path / "error.log.1")
    server.signal(signal.SIGUSR1)
    server._poll("a new log", log.exists, 20)
    os.kill(server.pids()[0], signal.SIGKILL)
    server._poll("a line in it", lambda: "killed by SIGKILL" in log.read_text(), 20)
    assert server.statuses(10) == {200: 10}


def test_a_suspended_arbiter_blames_nobody(serve):
    server = serve("--timeout", "2")
    server.wait_ready()
    before, beat = server.pids(), server.status()["arbiter"]["beat_age"]
    server.signal(signal.SIGSTOP)
    server.wait("silence", lambda status: status["arbiter"]["beat_age"] > 5)
    server.signal(signal.SIGCONT)
    server.wait("ticks", lambda status: status["arbiter"]["beat_age"] < max(1.5, beat))
    assert server.pids() == before
    assert not server.events("aborted")


def test_workers_do_not_outlive_an_arbiter_that_was_killed(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()
    pids = server.pids()
    server.signal(signal.SIGKILL)
    server._poll("the end of the workers", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)


def test_a_stale_board_does_not_stop_the_next_start(serve, tmp_path):
    first = serve(run_dir=tmp_path / "shared")
    first.wait_ready()
    first.signal(signal.SIGKILL)
    first.wait_exit()
    stale = list(first.run_dir.glob("*.board"))
    assert stale
    second = serve(run_dir=tmp_path / "shared")
    second.wait_ready()
    assert not stale[0].exists()


def test_a_worker_that_is_stuck_is_aborted_by_the_timeout(serve):
    server = serve("--timeout", "1")
    server.wait_ready()
    Client(server, "/slow?seconds=30")
    event = server.wait_event("aborted")
    assert event["rule"] == "timeout"
    server.wait_ready()


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


def test_the_first_answer_of_the_probe_is_right(worker_class, serve):
    """It waits in the backlog until the first worker accepts, which is ready then, counted by the arbiter or not."""
    server = serve("-k", worker_class)

    def first_answer() -> int:
        try:
            return server.get("/health/ready/", timeout=60).status
        except (FileNotFoundError, ConnectionRefusedError):
            return 0  # it does not listen yet

    answers: list[int] = []
    server._poll("an answer", lambda: answers.append(first_answer()) or answers[-1], 60)
    assert answers[-1] == 200
    assert server.get("/health/startup/").status == 200
