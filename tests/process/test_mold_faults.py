"""What fails around a fork of the mold, one fault at a time. The table of faults in docs/explanation/limits.md lists it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.process.harness import ROOT
from tests.process.limits import STRANGER, children, limit, limit_processes
from tests.process.test_mold import mold_of, serve_mold
from tests.process.test_users import a_python_that_nobody_may_run

HOOKS = {"GUINEA_FORK_HOOKS": "1"}


def replaced(server, gone: int) -> None:
    server.wait(
        "a successor",
        lambda status: status["ready"] == 2 and gone not in {slot["pid"] for slot in status["slots"]},
    )


def assert_whole(server) -> None:
    """The fleet is whole, and the arbiter has as many children as it knows."""
    status = server.wait_ready()
    assert server.statuses(10) == {200: 10}
    assert status["arbiter"]["errors"] == 0
    assert server.stop() == 0
    server._poll("nothing is left", lambda: not server._remaining_processes(), 20)


# the fork fails


@pytest.mark.needs("root")
def test_a_fork_in_the_mold_that_fails_with_eagain_is_retried_and_done_without(serve):
    packages = {"PYTHONPATH": os.pathsep.join((str(ROOT), sysconfig.get_path("purelib")))}
    with tempfile.TemporaryDirectory(prefix="workerguard-eagain-") as directory:
        Path(directory).chmod(0o755)
        run_dir = Path(directory, "run")
        project = Path(shutil.copytree(Path(__file__).parent / "guinea", Path(directory, "project")))
        server = serve(
            *("--load", "mold", "--", "--user", str(STRANGER), "--group", str(STRANGER)),
            project=project,
            run_dir=run_dir,
            python=a_python_that_nobody_may_run(),
            environ={**packages, "GUINEA_FAULTS": None},
        )
        try:
            server.wait_ready()
            mold = mold_of(server)["pid"]
            gone, survivor = server.pids()
            limit_processes(mold, "1")  # not even the process in between
            os.kill(gone, signal.SIGKILL)
            replaced(server, gone)
            reasons = [event["reason"] for event in server.events("spawn-failed")]
            assert reasons == ["fork: Resource temporarily unavailable"] * 2
            alone = server.events("spawned")[-1]
            assert "mold" not in alone, (
                "after two refusals the arbiter, which has no limit, forks a worker that loads"
            )
            assert server.log.count("no process can be started") == 1, "said once, not at every try"
            limit_processes(mold, "3")  # the mold, the other worker, and the process in between
            os.kill(alone["pid"], signal.SIGKILL)
            server.wait_event("spawn-failed", count=3)
            assert {server.get("/").pid for _ in range(6)} == {survivor}
            limit_processes(mold, "1000")
            replaced(server, alone["pid"])
            gone = server.kill_worker()
            replaced(server, gone)
            assert server.slot(1)["mold"] == mold
            assert not server.events("load-failed")
            assert_whole(server)
        finally:
            server.end()


SHORTAGES = {
    "memory": (resource.RLIMIT_AS, 0, "fork: Cannot allocate memory"),
    "descriptors": (resource.RLIMIT_NOFILE, 3, "scan: Too many open files"),
}


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_mold_without_room_for_a_fork_is_asked_again_and_stays_fit(serve, shortage):
    """Under load=auto a mold that is called unfit would be given up for good."""
    what, room, reason = SHORTAGES[shortage]
    server = serve("--load", "auto")
    server.wait_ready()
    mold = mold_of(server)["pid"]
    gone, survivor = server.pids()
    before, _ = resource.prlimit(mold, what)
    limit(mold, what, room)
    os.kill(gone, signal.SIGKILL)
    failed = server.wait_event("spawn-failed")
    assert failed["reason"] == reason
    assert {server.get("/").pid for _ in range(6)} == {survivor}
    limit(mold, what, before)
    replaced(server, gone)
    assert mold_of(server)["pid"] == mold
    assert_whole(server)


# the mold dies


def newborn(server, known: set[int]) -> int:
    """Wait for a child of the arbiter that was not there before, and return its pid."""
    server._poll("a worker that is not adopted", lambda: children(server.arbiter) - known, 60)
    (pid,) = children(server.arbiter) - known
    return pid


def test_a_mold_that_is_killed_in_the_middle_of_a_fork_loses_and_doubles_no_worker(serve, faults):
    server = serve_mold(serve, environ=HOOKS)
    mold, known = mold_of(server)["pid"], children(server.arbiter)
    faults.set("after-fork", "wait")
    gone = server.kill_worker()
    orphan = newborn(server, known)
    os.kill(mold, signal.SIGKILL)
    faults.clear()
    replaced(server, gone)
    (refused,) = server.events("not-forked")
    assert refused["reason"] == "the mold has ended"
    assert orphan not in server.pids()
    assert not server.events("load-failed")
    server._poll("the end of the orphan", lambda: not Path(f"/proc/{orphan}").exists(), 60)
    assert len(children(server.arbiter)) == len(known)
    assert_whole(server)


@pytest.mark.parametrize("worker_class", ["sync", "asgi"])
def test_a_worker_that_dies_before_it_is_adopted_is_replaced(serve, faults, worker_class):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.setblocking(False)
        port = statsd.getsockname()[1]
        server = serve_mold(
            serve, "--statsd-host", f"127.0.0.1:{port}", worker_class=worker_class, environ=HOOKS
        )
        known = children(server.arbiter)
        faults.set("after-fork", "wait")
        gone = server.kill_worker()
        os.kill(newborn(server, known), signal.SIGKILL)
        server.wait("its end was collected", lambda _: len(children(server.arbiter)) < len(known))
        faults.clear()
        replaced(server, gone)
        (failed,) = server.events("load-failed")
        assert failed["type"] == "SIGKILL"
        assert len(children(server.arbiter)) == len(known)
        counts = Gauge(statsd)
        server._poll("gunicorn counts two workers", lambda: counts.last() == "2", 20)
        assert_whole(server)


class Gauge:
    """The number of workers that gunicorn has reported last."""

    def __init__(self, statsd: socket.socket) -> None:
        self._statsd = statsd
        self._last = ""

    def last(self) -> str:
        while True:
            try:
                text = self._statsd.recv(4096).decode()
            except BlockingIOError:
                return self._last
            if text.startswith("gunicorn.workers:"):
                self._last = text.partition(":")[2].partition("|")[0]


# what is refused


@pytest.mark.parametrize("load", ["mold", "auto"])
def test_where_a_sandbox_refuses_a_subreaper_each_worker_loads_and_one_line_says_so(serve, load):
    server = serve("--load", load, prefix=(sys.executable, str(Path(__file__).parent / "sandbox.py")))
    status = server.wait_ready()
    (line,) = [line for line in server.log.splitlines() if "PR_SET_CHILD_SUBREAPER" in line]
    assert f"load={load} is not possible here, so each worker loads the application by itself" in line
    assert "Operation not permitted (set in --load on the command line)" in line
    assert status["load"] == "lazy"
    assert status["mold"] is None
    assert not server.events("spawn-failed")
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    assert {slot["generation"] for slot in server.status()["slots"]} == {2}
    assert_whole(server)


def test_a_check_says_so_too(serve):
    prefix = (sys.executable, str(Path(__file__).parent / "sandbox.py"))
    server = serve("--load", "mold", "--check", prefix=prefix)
    assert server.wait_exit() == 0
    assert "Warning: load=mold is not possible here" in server.log
    assert "The application loads" in server.log


def test_an_unfit_application_is_named_once_and_the_line_says_what_to_do(serve):
    server = serve("--load", "mold", environ={"GUINEA_SCHEDULER": "the-scheduler"})
    assert server.wait_exit() == 2
    (line,) = [line for line in server.log.splitlines() if line.startswith("Error:")]
    assert line.count("the-scheduler") == 1
    assert line.endswith("; remove these, or set load=auto")
