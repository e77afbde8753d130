"""The faults of a mold, one after the other on one server under load, on every worker class.

Whatever the fault, no worker is lost that was not killed, the fleet is whole again with one mold, and nothing is left behind. test_mold_faults.py has the faults that need a server of their own.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.clients import load_on
from tests.process.harness import LONG_ENOUGH, Faults, Server
from tests.process.limits import children, limit
from tests.process.molds import HOOKS, SHORTAGES, is_zombie, mold_of, newborn, serve_mold, wait_whole

WORKERS = 2
OPTIONS = ("--warmup-path", "/warm", "--load-timeout", LONG_ENOUGH, "--load-retry-delay", "0.1")


class Scene:
    """A server with a mold, the faults, and the events since the last fault."""

    def __init__(self, server: Server, faults: Faults) -> None:
        self.server = server
        self.faults = faults
        self.killed = 0  # workers, over all faults: each may take one request with it
        self.begin()

    def begin(self) -> None:
        self._last = self.server.events()[-1]["number"]
        self.generation = self.server.status()["arbiter"]["generation"]
        self.pids = self.server.pids()
        self.mold: int = mold_of(self.server)["pid"]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.server.events(name) if event["number"] > self._last]

    def wait(self, name: str, count: int = 1) -> dict[str, Any]:
        return self.server.wait_event(name, lambda event: event["number"] > self._last, count)

    def kill_worker(self) -> int:
        self.killed += 1
        return self.server.kill_worker()

    def kill_mold(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.mold, number)


Play = Callable[[Scene], None]


# the mold dies


def dies_of(number: int) -> Play:
    def play(scene: Scene) -> None:
        scene.kill_mold(number)
        scene.wait("mold-ready")
        scene.kill_worker()
        scene.wait("ready")
        assert not scene.events("load-failed")

    return play


def is_killed_during_its_load(scene: Scene) -> None:
    scene.faults.set("urlconf", "wait")
    scene.kill_mold()
    loading = scene.wait("mold-spawned")["pid"]
    scene.server.wait("it loads", lambda status: status["mold"]["step"])
    os.kill(loading, signal.SIGKILL)
    scene.faults.clear()
    assert scene.wait("load-failed")["type"] == "SIGKILL"
    scene.wait("mold-ready")


def is_killed_in_the_middle_of_a_fork(scene: Scene) -> None:
    known = children(scene.server.arbiter)
    scene.faults.set("after-fork", "wait")
    scene.kill_worker()
    orphan = newborn(scene.server, known)
    scene.kill_mold()
    scene.faults.clear()
    scene.wait("ready")
    assert scene.wait("not-forked")["reason"] == "the mold has ended"
    assert orphan not in scene.server.pids()


def ends_with_a_worker(scene: Scene) -> None:
    scene.kill_mold()
    scene.kill_worker()
    scene.wait("mold-ready")


# the mold does not answer


def is_stopped_for_good(scene: Scene) -> None:
    scene.kill_mold(signal.SIGSTOP)
    scene.kill_worker()
    scene.wait("mold-ready")
    assert [event["rule"] for event in scene.events("killed")] == ["fork-timeout"]


def is_stopped_and_continues_in_time(scene: Scene) -> None:
    scene.kill_mold(signal.SIGSTOP)
    scene.kill_worker()
    scene.server.wait("it was asked", lambda status: status["slots"][0]["state"] == "loading")
    scene.kill_mold(signal.SIGCONT)
    scene.wait("ready")
    assert mold_of(scene.server)["pid"] == scene.mold


# the mold cannot load


def cannot_load(kind: str, shown: str) -> Play:
    def play(scene: Scene) -> None:
        scene.faults.set("urlconf", kind, 2)
        scene.kill_mold()
        failed = scene.wait("load-failed", 2)
        assert (failed["slot"], failed["type"]) == (0, shown)
        scene.wait("mold-ready")

    return play


def hangs_in_its_load(scene: Scene) -> None:
    scene.faults.set("urlconf", "hang", 1)
    scene.kill_mold()
    scene.wait("mold-ready")
    assert [event["rule"] for event in scene.events("aborted")] == ["load-timeout"]


# the fork fails


def has_no(shortage: str) -> Play:
    def play(scene: Scene) -> None:
        what, room, reason = SHORTAGES[shortage]
        before, _ = resource.prlimit(scene.mold, what)
        limit(scene.mold, what, room)
        scene.kill_worker()
        failed = scene.wait("spawn-failed")
        limit(scene.mold, what, before)
        # gevent's mold can lack the memory for the scan already
        assert failed["reason"].partition(": ")[2] == reason.partition(": ")[2]
        scene.wait("ready")
        assert mold_of(scene.server)["pid"] == scene.mold

    return play


def forks_a_worker_that_dies_before_it_is_adopted(scene: Scene) -> None:
    known = children(scene.server.arbiter)
    scene.faults.set("after-fork", "wait")
    scene.kill_worker()
    orphan = newborn(scene.server, known)
    scene.server.signal(signal.SIGSTOP)  # so that the worker ends before it can be adopted
    os.kill(orphan, signal.SIGKILL)
    scene.server._poll("its end", lambda: is_zombie(orphan), 20)
    scene.faults.clear()
    scene.server.signal(signal.SIGCONT)
    scene.wait("ready")
    assert [event["type"] for event in scene.events("load-failed")] == ["SIGKILL"]


def forks_a_worker_that_hangs(scene: Scene) -> None:
    scene.faults.set("warm", "hang", 1)
    scene.kill_worker()
    scene.wait("load-failed")
    assert "guinea_faults" in scene.server.slot(1)["last_error"]["traceback"]
    scene.wait("ready")


# reloads


def is_reloaded_with_code_that_cannot_be_loaded(scene: Scene) -> None:
    scene.faults.set("urlconf", "exception")
    scene.server.signal(signal.SIGHUP)
    scene.wait("frozen")
    assert scene.server.pids() == scene.pids
    scene.kill_worker()
    scene.wait("ready")
    assert scene.server.slot(1)["mold"] == scene.mold, "the old mold still serves"
    scene.faults.clear()


def is_reloaded_during_the_load_of_its_successor(scene: Scene) -> None:
    scene.faults.set("urlconf", "wait")
    scene.kill_mold()
    scene.wait("mold-spawned")
    scene.server.signal(signal.SIGHUP)
    scene.wait("reload")
    scene.faults.clear()


def is_reloaded_again_and_again(scene: Scene) -> None:
    scene.faults.set("urlconf", "slow", 4)
    for number in range(1, 5):
        scene.server.signal(signal.SIGHUP)
        scene.wait("reload", number)


def is_reloaded_while_it_forks(scene: Scene) -> None:
    scene.faults.set("before-fork", "wait")
    scene.kill_worker()
    scene.server.wait("it was asked", lambda status: status["slots"][0]["state"] == "loading")
    scene.server.signal(signal.SIGHUP)
    scene.wait("reload")
    scene.faults.clear()


PLAYS: dict[str, tuple[Play, int]] = {  # with the number of generations that it begins
    "it is killed": (dies_of(signal.SIGKILL), 0),
    "it is ended": (dies_of(signal.SIGTERM), 0),
    "it crashes": (dies_of(signal.SIGSEGV), 0),
    "it is killed during its load": (is_killed_during_its_load, 0),
    "it is killed in the middle of a fork": (is_killed_in_the_middle_of_a_fork, 0),
    "it is killed with a worker": (ends_with_a_worker, 0),
    "it is stopped for good": (is_stopped_for_good, 0),
    "it is stopped and continues in time": (is_stopped_and_continues_in_time, 0),
    "its load raises": (cannot_load("exception", "RuntimeError"), 0),
    "its load exits": (cannot_load("exit", "exit"), 0),
    "its load crashes": (cannot_load("segv", "SIGSEGV"), 0),
    "its load hangs": (hangs_in_its_load, 0),
    "it has no memory for a fork": (has_no("memory"), 0),
    "it has no descriptors for a fork": (has_no("descriptors"), 0),
    "a worker dies before it is adopted": (forks_a_worker_that_dies_before_it_is_adopted, 0),
    "a worker hangs before it is ready": (forks_a_worker_that_hangs, 0),
    "a reload of broken code": (is_reloaded_with_code_that_cannot_be_loaded, 1),
    "a reload during its load": (is_reloaded_during_the_load_of_its_successor, 1),
    "four reloads at once": (is_reloaded_again_and_again, 4),
    "a reload during a fork": (is_reloaded_while_it_forks, 1),
}


@pytest.mark.timeout(400)
def test_each_fault_of_a_mold_costs_no_worker(serve, faults, worker_class, subtests):
    server = serve_mold(serve, worker_class=worker_class, guard=OPTIONS, environ=HOOKS)
    scene = Scene(server, faults)
    with load_on(server, count=2, pause=0.2) as clients:  # it goes on for a minute or two
        for name, (play, generations) in PLAYS.items():
            with subtests.test(name):
                scene.begin()
                play(scene)
                wait_whole(server, WORKERS, scene.generation + generations)
                if not generations:
                    assert scene.pids[1] in server.pids(), "the worker that was not killed"
                else:
                    server._poll("the old mold's end", lambda: not Path(f"/proc/{scene.mold}").exists(), 60)
            faults.clear()
    assert {status for client in clients for _, status in client.answered} == {200}
    in_hand = 1 if worker_class == "sync" else len(clients)
    assert sum(len(client.failed) for client in clients) <= scene.killed * in_hand
    assert server.status()["arbiter"]["errors"] == 0
    assert server.stop() == 0
    server._poll("nothing is left", lambda: not server._remaining_processes(), 20)
