"""Workers that are forked from a mold, on every worker class, and everything that may happen to the mold."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest


def mold_of(server) -> dict:
    return server.status()["mold"]


def serve_mold(serve, *arguments, worker_class="sync", **options):
    server = serve("--load", "mold", "--", "-k", worker_class, *arguments, **options)
    server.wait_ready()
    return server


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_every_worker_is_forked_from_the_mold_and_is_a_child_of_the_arbiter(serve, worker_class):
    server = serve_mold(serve, worker_class=worker_class)
    status = server.status()
    mold = status["mold"]
    assert (mold["state"], mold["forks"]) == ("ready", 2)
    assert {slot["mold"] for slot in status["slots"]} == {mold["pid"]}
    assert {parent(pid) for pid in (*server.pids(), mold["pid"])} == {server.arbiter}
    assert server.statuses(10) == {200: 10}
    assert server.get("/health/ready/").status == 200
    assert server.stop() == 0
    assert not server._remaining_processes()


def test_a_killed_worker_is_replaced_by_a_fork_while_no_load_can_succeed(serve, worker_class):
    server = serve_mold(serve, worker_class=worker_class)
    server.break_loads()
    for number in range(1, 4):
        gone = server.kill_worker()
        server.wait("its successor", lambda status, gone=gone: status["slots"][0]["pid"] not in (None, gone))
        server.wait_ready()
        assert mold_of(server)["forks"] == 2 + number
    assert server.statuses(10) == {200: 10}
    assert not server.events("load-failed")


def test_a_reload_rolls_only_once_its_mold_is_ready(serve, worker_class):
    server = serve_mold(serve, worker_class=worker_class)
    before, old = server.pids(), mold_of(server)["pid"]
    server.break_loads("error")
    server.signal(signal.SIGHUP)
    server.wait_event("frozen")
    assert server.pids() == before
    assert mold_of(server)["pid"] == old, "the old mold still serves"
    gone = server.kill_worker()
    server.wait("its successor", lambda status: status["slots"][0]["pid"] not in (None, gone))
    assert server.slot(1)["generation"] == 1, "forked from the old mold"
    server.repair()
    server.wait("generation 2", lambda status: {slot["generation"] for slot in status["slots"]} == {2})
    server.wait("the old mold's end", lambda _: not Path(f"/proc/{old}").exists())
    assert server.statuses(10) == {200: 10}
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_mold_that_dies_costs_no_worker_and_is_loaded_again(serve, number):
    server = serve_mold(serve)
    before, old = server.pids(), mold_of(server)["pid"]
    os.kill(old, number)
    server.wait("another mold", lambda status: status["mold"]["pid"] not in (None, old))
    server.wait("it is ready", lambda status: status["mold"]["state"] == "ready")
    assert server.pids() == before
    server.kill_worker()
    server.wait_event("spawned", count=3)
    server.wait_ready()
    assert server.statuses(6) == {200: 6}


def test_a_mold_that_is_stopped_holds_up_nothing_and_is_killed_once_it_is_asked_for_a_worker(serve):
    server = serve_mold(serve)
    old = mold_of(server)["pid"]
    os.kill(old, signal.SIGSTOP)
    gone = server.kill_worker()
    assert server.statuses(10) == {200: 10}, "the other worker serves"
    assert server.status()["arbiter"]["beat_age"] < 5.0
    server.wait("another worker", lambda status: status["slots"][0]["pid"] not in (None, gone), 60)
    server.wait_ready()
    assert mold_of(server)["pid"] != old
    assert [event["rule"] for event in server.events("killed")] == ["fork-timeout"]


def test_a_mold_that_comes_back_in_time_forks_one_worker(serve):
    server = serve_mold(serve)
    mold = mold_of(server)["pid"]
    os.kill(mold, signal.SIGSTOP)
    server.kill_worker()
    time.sleep(1.0)  # a late answer, well before the time limit of a fork
    os.kill(mold, signal.SIGCONT)
    server.wait_ready()
    assert mold_of(server)["pid"] == mold
    assert mold_of(server)["forks"] == 3
    children = Path(f"/proc/{server.arbiter}/task/{server.arbiter}/children").read_text().split()
    assert {*server.pids(), mold} <= {int(pid) for pid in children}


def test_while_the_mold_cannot_load_a_dead_worker_loads_by_itself_once_it_can(serve):
    server = serve_mold(serve)
    server.break_loads("error")
    os.kill(mold_of(server)["pid"], signal.SIGKILL)
    server.wait("two failures", lambda status: status["mold"]["failures"] >= 2, 60)
    server.kill_worker()
    server.repair()
    server.wait_ready(timeout=60)
    assert server.statuses(6) == {200: 6}


def test_a_server_whose_mold_cannot_load_gives_up_as_need_app_says(serve):
    server = serve(
        "--load", "mold", environ={"GUINEA_BROKEN": "1", "DJANGO_SETTINGS_MODULE": "no_such_settings"}
    )
    assert server.wait_exit(60) == 22


def test_the_arbiter_is_killed_and_nothing_stays_behind(serve):
    server = serve_mold(serve)
    processes = [*server.pids(), mold_of(server)["pid"]]
    os.kill(server.arbiter, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_arbiters_have_a_mold_each(serve):
    server = serve_mold(serve)
    old = mold_of(server)["pid"]
    server.signal(signal.SIGUSR2)
    server.wait("the second arbiter", lambda status: bool(status.get("replaces")), 60)
    server.wait_ready()
    assert mold_of(server)["pid"] != old
    assert Path(f"/proc/{old}").exists()


def test_the_current_worker_is_the_fork_and_not_the_mold(serve):
    server = serve_mold(serve)
    for slot in server.status()["slots"]:
        assert slot["pid"] != mold_of(server)["pid"]
    pids = {server.get("/").pid for _ in range(20)}
    assert pids <= set(server.pids())
