"""The table: every way for a load to fail, one after the other on one server, on every worker class.

A worker is killed and its replacement meets the fault. Whatever the fault, the other
workers answer everything, the arbiter lives, the reason can be read, and the slot is
loaded again when the cause is gone.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest

from tests.process.harness import LONG_ENOUGH, Faults, Server, Since, assert_answered_by, wait_whole


@dataclass(frozen=True)
class Fault:
    place: str
    kind: str
    shown: str  # the type in last_error


FAULTS = {
    "MemoryError at import": Fault("settings", "memory", "MemoryError"),
    "ImportError at import": Fault("settings", "import", "ModuleNotFoundError"),
    "SystemExit at import": Fault("settings", "system-exit", "SystemExit"),
    "KeyboardInterrupt at import": Fault("settings", "interrupt", "KeyboardInterrupt"),
    "exception in ready": Fault("ready", "exception", "RuntimeError"),
    "exception in the URLconf": Fault("urlconf", "exception", "RuntimeError"),
    "exception in a view module": Fault("views", "exception", "RuntimeError"),
    "exception in a probe": Fault("probe", "exception", "RuntimeError"),
    "exception in a warm-up request": Fault("warm", "exception", "RuntimeError"),
    "MemoryError in a warm-up request": Fault("warm", "memory", "MemoryError"),
    "os._exit": Fault("ready", "exit", "exit"),
    "SIGSEGV": Fault("ready", "segv", "SIGSEGV"),
    "SIGKILL": Fault("ready", "kill", "SIGKILL"),
    "hang in Python": Fault("ready", "hang", "load-timeout"),
    "hang in C": Fault("ready", "hang-in-c", "load-timeout"),
    "URLconf broken half-way for ever": Fault("half", "half", "ImportError"),
}
CHECKED = ("--load-probe", "guinea_probes:probe", "--warmup-path", "/warm")
HANGING = {name: fault for name, fault in FAULTS.items() if fault.shown == "load-timeout"}
OTHERS = {name: fault for name, fault in FAULTS.items() if name not in HANGING}


@pytest.mark.timeout(600)
def test_each_failed_load_costs_one_slot(worker_class, serve, faults, subtests):
    faults.set("ready", "memory", 3)
    server = serve("-k", worker_class, *CHECKED, "--load-timeout", "60s", workers=3)
    with subtests.test("a load that fails only at times gets there"):
        server.wait_ready()
        assert len(server.events("load-failed")) == 3
        assert server.statuses(10) == {200: 10}
    wait_whole(server, 3)
    with subtests.test("two fail at once"):
        assert_two_that_fail_at_once_cost_their_slots(server, faults)
    wait_whole(server, 3)
    with subtests.test("SIGTERM to a worker during its load"):
        assert_term_to_a_worker_during_its_load_is_a_failed_load(server, faults)
    wait_whole(server, 3)
    play(server, OTHERS, faults, subtests)


def test_each_load_that_hangs_costs_one_slot_and_shows_its_stack(worker_class, serve, faults, subtests):
    server = serve("-k", worker_class, *CHECKED, "--load-timeout", LONG_ENOUGH)
    shown = play(server, HANGING, faults, subtests)
    assert "guinea_faults.py" in shown["hang in Python"]["traceback"]


def test_a_load_that_hangs_shows_its_stack_if_python_has_enabled_faulthandler(
    worker_class, serve, faults, subtests
):
    """By PYTHONFAULTHANDLER, or `-X dev`: its handlers are then older than those of a worker."""
    arguments = ("-k", worker_class, *CHECKED, "--load-timeout", LONG_ENOUGH)
    server = serve(*arguments, environ={"PYTHONFAULTHANDLER": "1"})
    shown = play(server, {"hang in Python": FAULTS["hang in Python"]}, faults, subtests)
    assert "guinea_faults.py" in shown["hang in Python"]["traceback"]


def play(
    server: Server, faults_of: dict[str, Fault], faults: Faults, subtests: pytest.Subtests
) -> dict[str, dict]:
    """Meet one fault after the other on one server, which has to be whole again each time; return what slot 1 showed."""
    shown = {}
    server.wait_ready()
    arbiter = server.status()["arbiter"]["pid"]
    for name, fault in faults_of.items():
        with subtests.test(name):
            victim, *survivors = server.pids()
            last = server.events()[-1]["number"]
            faults.set(fault.place, fault.kind, 1)

            os.kill(victim, signal.SIGKILL)
            failed = server.wait_event("load-failed", lambda event, last=last: event["number"] > last)

            assert failed["type"] == fault.shown
            assert_answered_by(server, set(survivors), failed)
            shown[name] = server.slot(1)["last_error"]
            assert shown[name]["type"] == fault.shown
            server.wait_event("ready", lambda event, last=last: event["number"] > last)
            server.wait_ready()
            assert server.pids()[1:] == survivors
            assert server.status()["arbiter"]["pid"] == arbiter
    assert server.stop() == 0
    return shown


def assert_two_that_fail_at_once_cost_their_slots(server: Server, faults: Faults) -> None:
    since = Since(server)
    first, second, survivor = server.pids()
    faults.set("ready", "memory", 4)

    os.kill(first, signal.SIGKILL)
    os.kill(second, signal.SIGKILL)
    failed = since.wait("load-failed", count=2)

    assert_answered_by(server, {survivor}, failed)
    since.wait("load-failed", count=4)
    server.wait_ready()
    assert {event["slot"] for event in since.events("load-failed")} == {1, 2}


def assert_term_to_a_worker_during_its_load_is_a_failed_load(server: Server, faults: Faults) -> None:
    since = Since(server)
    victim, *survivors = server.pids()
    faults.set("ready", "hang", 1)
    os.kill(victim, signal.SIGKILL)
    server.wait("the hang", lambda status: faults.used_up("ready") and status["slots"][0]["pid"])

    os.kill(server.slot(1)["pid"], signal.SIGTERM)

    failed = since.wait("load-failed")
    assert_answered_by(server, set(survivors), failed)
    server.wait_ready()


def test_term_to_the_server_during_a_load_ends_it(worker_class, serve, faults):
    faults.set("ready", "hang")
    server = serve("-k", worker_class, workers=1)
    server.wait("a load", lambda status: any(slot["step"] == "app" for slot in status["slots"]))
    assert server.stop() == 0
    assert not list(server.run_dir.glob("*.board"))


def test_workers_that_are_killed_while_others_load_and_the_module_of_uwsgi(serve, faults, subtests):
    server = serve(workers=4)
    wait_whole(server, 4)
    with subtests.test("any worker that is killed while others load is replaced too"):
        before = server.pids()
        faults.set("ready", "slow")
        for pid in before:
            os.kill(pid, signal.SIGKILL)
            server.wait_event("exited", lambda event, pid=pid: event["pid"] == pid)
        server.wait_ready()
        assert not set(before) & set(server.pids())
    faults.clear()
    wait_whole(server, 4)
    with subtests.test("the error of code that imports uwsgi says what to use"):
        faults.set("views", "uwsgi", 1)
        since, logged = Since(server), len(server.log)
        server.kill_worker()
        since.wait("load-failed")
        since.wait("ready")
        log = server.log[logged:]
        assert "ModuleNotFoundError: No module named 'uwsgi'" in log
        assert "In place of uwsgi.reload: workerguard reload" in log
        assert "Code that only asks whether it runs under uWSGI has to catch ImportError" in log
