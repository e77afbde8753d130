"""Workers that are forked from a mold, on every worker class, and everything that may happen to the mold."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from tests.process.commands import order
from tests.process.harness import LONG_ENOUGH, WORKER_CLASSES, Faults, Server, Since
from tests.process.limits import children
from tests.process.molds import mold_of, serve_mold, wait_whole


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Scene:
    """A server with a mold on a copy of the project, and its state at the beginning of one part of the test."""

    def __init__(self, server: Server, faults: Faults, log: Path) -> None:
        self.server = server
        self.faults = faults
        self.log = log
        self.generation: int = server.status()["arbiter"]["generation"]
        self.pids = server.pids()
        self.mold = mold_of(server)
        self.since = Since(server)


@pytest.mark.timeout(400)
def test_workers_are_forked_from_a_mold(serve, faults, worker_class, subtests, tmp_path):
    """What does not depend on the worker class is tested on one."""
    log = tmp_path / "access.log"
    server = serve_mold(serve, "--access-logfile", str(log), worker_class=worker_class, project_copy=True)
    assert mold_of(server)["forks"] == 2
    # the mold collects none, and its workers do
    assert f"collected-after={gc.get_threshold()[0]}\n" in server.get("/who").body
    generation = 1
    for name, (play, generations, classes) in PLAYS.items():
        if worker_class in classes:
            with subtests.test(name):
                play(Scene(server, faults, log))
            generation += generations
            faults.clear()
            wait_whole(server, 2, generation)
    assert server.statuses(10) == {200: 10}
    assert server.stop() == 0
    assert not server._remaining_processes()


def every_worker_is_a_child_of_the_arbiter(scene: Scene) -> None:
    server = scene.server
    status = server.status()
    mold = status["mold"]
    assert (mold["state"], mold["forks"]) == ("ready", 2)
    assert {slot["mold"] for slot in status["slots"]} == {mold["pid"]}
    assert {parent(pid) for pid in (*server.pids(), mold["pid"])} == {server.arbiter}
    assert server.statuses(10) == {200: 10}
    assert server.get("/health/ready/").status == 200


def a_killed_worker_is_replaced_while_no_load_can_succeed(scene: Scene) -> None:
    server = scene.server
    scene.faults.set("settings", "memory")
    for number in range(1, 4):
        gone = server.kill_worker()
        server.wait("its successor", lambda status, gone=gone: status["slots"][0]["pid"] not in (None, gone))
        server.wait_ready()
        assert mold_of(server)["forks"] == scene.mold["forks"] + number
    assert server.statuses(10) == {200: 10}
    assert not scene.since.events("load-failed")


def a_reload_rolls_only_once_its_mold_is_ready(scene: Scene) -> None:
    server, old = scene.server, scene.mold["pid"]
    scene.faults.set("urlconf", "exception")
    server.signal(signal.SIGHUP)
    scene.since.wait("frozen")
    assert server.pids() == scene.pids
    assert mold_of(server)["pid"] == old, "the old mold still serves"
    gone = server.kill_worker()
    server.wait("its successor", lambda status: status["slots"][0]["pid"] not in (None, gone))
    assert server.slot(1)["generation"] == scene.generation, "forked from the old mold"
    scene.faults.clear()
    new = {scene.generation + 1}
    server.wait("the new generation", lambda status: {slot["generation"] for slot in status["slots"]} == new)
    server.wait("the old mold's end", lambda _: not Path(f"/proc/{old}").exists())
    assert server.statuses(10) == {200: 10}


def code_that_has_kept_the_current_worker_sees_the_fork(scene: Scene) -> None:
    answers = {scene.server.get("/kept").body for _ in range(40)}
    assert answers <= {f"slot={slot['slot']} pid={slot['pid']}\n" for slot in scene.server.status()["slots"]}


def a_reload_that_fails_is_told_of_the_mold_and_not_of_a_slot_0(scene: Scene) -> None:
    server = scene.server
    scene.faults.set("urlconf", "exception")
    outcome = order(server, "reload", "--wait=60")
    assert outcome.returncode == ExitCode.LOAD_FAILED
    assert "Error: the mold: the load failed in step urlconf" in outcome.stderr
    assert "mold-spawned" in outcome.stdout
    assert "after 0 failed loads" not in order(server, "explain", "1").stdout
    assert "Traceback" in order(server, "explain", "0").stdout
    scene.faults.clear()
    assert order(server, "reload", "--wait=60").returncode == ExitCode.OK


def a_reload_to_code_from_which_no_worker_can_be_forked_fails_and_names_the_hazard(scene: Scene) -> None:
    server = scene.server
    urls = server.project / "guinea_urls.py"
    whole = urls.read_text()
    urls.write_text(
        whole + "\nimport threading, time\n"
        "for number in range(9):\n"
        "    name = f'reporter-{number}'\n"
        "    threading.Thread(target=time.sleep, args=[3600], name=name, daemon=True).start()\n"
    )
    try:
        outcome = order(server, "reload", "--wait=60")
        assert outcome.returncode == ExitCode.LOAD_FAILED, outcome
        assert "the mold: no worker can be forked from the application: thread: reporter-0" in outcome.stderr
        frozen = scene.since.wait("frozen")
        assert frozen["type"] == "Unfit"
        assert "thread: reporter-0, which runs time.sleep" in frozen["message"]
        assert server.pids() == scene.pids
        shown = order(server, "status").stdout
        generation = scene.generation + 1
        assert f"frozen: generation {generation} cannot be loaded (Unfit: thread: reporter-0" in shown
        assert "thread: reporter-8" in shown, "each hazard by name"
        assert "thread: reporter" in order(server, "explain", "0").stdout
    finally:
        urls.write_text(whole)
    scene.since.wait("reloaded")


def a_dead_worker_loads_by_itself_while_the_mold_cannot_load(scene: Scene) -> None:
    server = scene.server
    scene.faults.set("urlconf", "exception")
    os.kill(scene.mold["pid"], signal.SIGKILL)
    server.wait("two failures", lambda status: status["mold"]["failures"] >= 2, 60)
    server.kill_worker()
    scene.faults.clear()
    server.wait_ready(timeout=60)
    assert server.statuses(6) == {200: 6}


def workers_that_are_forked_after_a_log_rotation_write_into_the_new_file(scene: Scene) -> None:
    server, log = scene.server, scene.log

    def written() -> int:
        return log.read_text().count("GET /?rotated ")

    assert server.statuses(4, "/?rotated") == {200: 4}
    server._poll("four lines", lambda: written() == 4, 20)
    old = log.rename(log.with_suffix(".1"))
    server.signal(signal.SIGUSR1)
    server._poll("a new log", log.exists, 20)
    for slot in (1, 2):
        server.kill_worker(slot)
        scene.since.wait("ready", count=slot)
    size = old.stat().st_size
    assert server.statuses(10, "/?rotated") == {200: 10}
    server._poll("ten lines", lambda: written() == 10, 20)
    assert old.stat().st_size == size
    mold = mold_of(server)["pid"]
    held = set()
    for fd in Path(f"/proc/{mold}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it may be at a scan
            held.add(os.readlink(fd))
    assert str(old) not in held


Play = Callable[[Scene], None]
SYNC = ("sync",)
EACH_CLASS = tuple(WORKER_CLASSES.values())
# with the number of generations that it begins, and the worker classes
PLAYS: dict[str, tuple[Play, int, tuple[str, ...]]] = {
    # the first, because no other fork is counted before
    "every worker is a child of the arbiter": (every_worker_is_a_child_of_the_arbiter, 0, EACH_CLASS),
    "no load can succeed": (a_killed_worker_is_replaced_while_no_load_can_succeed, 0, EACH_CLASS),
    "a reload that fails": (  # before other loads of a mold that fail, which `explain 0` lists too
        a_reload_that_fails_is_told_of_the_mold_and_not_of_a_slot_0,
        2,
        SYNC,
    ),
    "a reload": (a_reload_rolls_only_once_its_mold_is_ready, 1, EACH_CLASS),
    "code has kept the current worker": (code_that_has_kept_the_current_worker_sees_the_fork, 0, SYNC),
    "a reload to code from which no worker can be forked": (
        a_reload_to_code_from_which_no_worker_can_be_forked_fails_and_names_the_hazard,
        1,
        SYNC,
    ),
    "the mold cannot load": (a_dead_worker_loads_by_itself_while_the_mold_cannot_load, 0, SYNC),
    "a log rotation": (workers_that_are_forked_after_a_log_rotation_write_into_the_new_file, 0, SYNC),
}


@pytest.mark.parametrize("kind", ["exception", "exit", "kill", "segv", "memory", "system-exit"])
def test_a_server_whose_mold_cannot_load_gives_up_as_need_app_says(serve, faults, kind):
    faults.set("urlconf", kind)
    server = serve("--load", "mold", "--load-retry-delay", "0.1", "--load-retries", "2")
    assert server.wait_exit(60) == 22


def test_an_application_with_a_thread_is_refused_under_mold_and_named_once(serve):
    server = serve("--load", "mold", environ={"GUINEA_SCHEDULER": "the-scheduler"})
    assert server.wait_exit(60) == 2
    (line,) = [line for line in server.log.splitlines() if line.startswith("Error:")]
    assert line.count("the-scheduler") == 1
    assert "load=mold" in line
    assert line.endswith("; remove these, or set load=auto")
    assert not server._remaining_processes()


def test_an_application_with_a_thread_is_served_lazily_under_auto_and_its_mold_becomes_a_worker(
    serve, worker_class
):
    server = serve("--load", "auto", "--", "-k", worker_class, environ={"GUINEA_SCHEDULER": "the-scheduler"})
    status = server.wait_ready()
    (mold,) = server.events("mold-spawned")
    assert mold["pid"] in server.pids(), "its load is not wasted"
    assert status["unfit"]
    (unfit,) = server.events("mold-unfit")
    assert "the-scheduler" in unfit["hazards"][0]
    assert (status["mold"]["state"], status["mold"]["hazards"]) == ("unfit", unfit["hazards"])
    assert "the-scheduler" in order(server, "status").stdout
    assert "the-scheduler" in order(server, "explain", "1").stdout
    assert server.statuses(10) == {200: 10}
    before = server.pids()
    server.signal(signal.SIGHUP)
    server.wait(
        "generation 2",
        lambda status: status["ready"] == 2 and {slot["generation"] for slot in status["slots"]} == {2},
        60,
    )
    assert not set(before) & set(server.pids())
    assert server.statuses(10) == {200: 10}
    assert server.stop() == 0


def test_a_server_that_no_longer_has_a_mold_shows_none(serve):
    server = serve(workers=1, project_copy=True, environ={"WORKERGUARD_LOAD": None})
    settings = server.project / "guinea_settings.py"
    server.wait_ready()
    assert mold_of(server) is None
    whole = settings.read_text()
    settings.write_text(whole + "\nWORKERGUARD['LOAD'] = 'mold'\n")
    assert order(server, "reload", "--wait=60").returncode == ExitCode.OK
    assert mold_of(server)["state"] == "ready"
    settings.write_text(whole)
    assert order(server, "reload", "--wait=60").returncode == ExitCode.OK
    server.wait("no mold", lambda status: status["mold"] is None)


def test_a_thread_that_starts_after_the_first_fork_makes_the_mold_unfit_for_the_second(serve):
    server = serve("--load", "auto", environ={"GUINEA_LATE_THREAD": "late"})
    server.wait_ready()
    (unfit,) = server.events("mold-unfit")
    assert "late" in unfit["hazards"][0]
    assert server.statuses(6) == {200: 6}
    for _ in range(3):
        gone = server.kill_worker()
        server.wait(
            "its successor", lambda status, gone=gone: status["slots"][0]["pid"] not in (None, gone), 60
        )
        server.wait_ready()
    assert server.stop() == 0


def test_a_load_that_hangs_many_replacements_and_a_killed_arbiter_leave_nothing_behind(serve, faults):
    """MOLD_REPLACEMENTS: how many. The arbiter and the mold keep no descriptor, no child and no seat of any."""
    faults.set("urlconf", "hang", 1)
    patience = ("--load-retry-delay", "1ms", "--load-retry-max-delay", "2ms")
    server = serve_mold(serve, guard=("--load-timeout", LONG_ENOUGH, *patience))
    assert [event["rule"] for event in server.events("aborted")] == ["load-timeout"]
    assert mold_of(server)["forks"] == 2

    def held() -> tuple[int, ...]:
        mold = mold_of(server)["pid"]
        children = Path(f"/proc/{server.arbiter}/task/{server.arbiter}/children").read_text().split()
        return (
            len(os.listdir(f"/proc/{server.arbiter}/fd")),
            len(os.listdir(f"/proc/{mold}/fd")),
            len(children),
            len(Path(f"/proc/{mold}/task/{mold}/children").read_text().split()),
        )

    before = held()
    for number in range(int(os.environ.get("MOLD_REPLACEMENTS", "60"))):
        gone = server.kill_worker(number % 2 + 1)
        server.wait(
            "its successor",
            lambda status, gone=gone: (
                status["ready"] == 2 and gone not in {s["pid"] for s in status["slots"]}
            ),
        )
    server._poll(  # a file of /proc may be open just now
        "no more is held", lambda: all(now <= then for now, then in zip(held(), before, strict=True)), 20
    )
    assert server.statuses(6) == {200: 6}
    processes = [*server.pids(), mold_of(server)["pid"]]
    os.kill(server.arbiter, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


WARMUP = ("--warmup-path", "/warm", "--warmup-in-mold", "on")


@pytest.mark.parametrize("worker_class", ["sync", "gevent", "asgi"])
def test_warm_up_requests_are_made_once_in_the_mold_if_the_site_asks_for_it(serve, faults, worker_class):
    """In its first load a warm-up request fails, which is a failed load of the mold."""
    faults.set("warm", "exception", 1)
    server = serve_mold(serve, guard=WARMUP, worker_class=worker_class)
    assert [(event["slot"], event["type"]) for event in server.events("load-failed")] == [(0, "RuntimeError")]
    assert mold_of(server)["forks"] == 2
    server.kill_worker()
    server.wait_event("ready", count=3)
    server.wait_ready()
    (mold,) = server.events("mold-ready")
    assert "warmup:/warm" in mold["steps"]
    assert not [event for event in server.events("ready") if "warmup" in event["steps"]]
    assert server.statuses(6) == {200: 6}


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_out_of_memory_the_kernel_takes_a_worker_first_and_the_arbiter_last(serve, tmp_path, load, subtests):
    own = 300  # raised by the shell, so that the arbiter may lower it again without any right
    raised = ("sh", "-c", f'echo {own} > /proc/self/oom_score_adj && exec "$0" "$@"')
    monitor = ("--monitor-bind", f"unix:{tmp_path}/monitor")
    server = serve("--load", load, *WARMUP, *monitor, workers=2, prefix=raised)
    server.wait_ready()
    if load == "lazy":
        with subtests.test("a worker that loads for itself makes the warm-up requests too"):
            assert all("warmup:/warm" in event["steps"] for event in server.events("ready"))
    assert oom_score(server.arbiter) == own - 100
    assert {oom_score(pid) for pid in server.pids()} == {own + 100}
    others = children(server.arbiter) - {*server.pids()}
    assert len(others) == (3 if load == "mold" else 2), "stand-in, monitor, mold"
    assert {oom_score(pid) for pid in others} == {own}, "what the arbiter has lowered is not inherited"
    known = children(server.arbiter)
    server.signal(signal.SIGUSR2)
    server._poll("a second arbiter", lambda: children(server.arbiter) - known, 60)
    (second,) = children(server.arbiter) - known
    server._poll("it is as safe as the first", lambda: oom_score(second) == own - 100, 60)
