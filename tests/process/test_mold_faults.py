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

from tests.process.clients import load_on
from tests.process.harness import ROOT, Since, assert_answered_by
from tests.process.limits import (
    STRANGER,
    a_python_that_nobody_may_run,
    children,
    limit,
    limit_file,
    limit_processes,
)
from tests.process.molds import HOOKS, SHORTAGES, is_zombie, mold_of, newborn, serve_mold, wait_whole
from tests.process.room import inside


def replaced(server, gone: int) -> None:
    server.wait(
        "a successor",
        lambda status: status["ready"] == 2 and not {None, gone} & {slot["pid"] for slot in status["slots"]},
    )


def assert_serves(server) -> None:
    """The fleet is whole, and the arbiter has met no error of its own."""
    status = server.wait_ready()
    assert server.statuses(10) == {200: 10}
    assert status["arbiter"]["errors"] == 0


def assert_whole(server) -> None:
    """The fleet is whole, and its stop leaves nothing behind."""
    assert_serves(server)
    assert server.stop() == 0
    server._poll("nothing is left", lambda: not server._remaining_processes(), 20)


@pytest.mark.timeout(120)
def test_new_code_whose_workers_fail_after_their_fork_costs_no_old_worker(serve):
    """The new mold has loaded; the old one has to stay, because it alone has the code that serves."""
    options = ("--warmup-path", "/warm", "--load-retry-delay", "0.1")
    server = serve_mold(serve, guard=options, project_copy=True)
    old = mold_of(server)["pid"]
    views = server.project / "guinea_app" / "views.py"
    whole = views.read_text()
    views.write_text(whole.replace('return HttpResponse("warm\\n")', "raise RuntimeError('cold')"))
    server.signal(signal.SIGHUP)
    server.wait("frozen", lambda status: status["arbiter"]["frozen"])
    for slot in (1, 2):
        gone = server.kill_worker(slot)
        replaced(server, gone)
    assert {slot["mold"] for slot in server.status()["slots"]} == {old}
    assert {event["generation"] for event in server.events("ready")} == {1}

    views.write_text(whole)
    server.signal(signal.SIGHUP)
    wait_whole(server, 2, 3)
    assert_whole(server)


# on one server


@pytest.mark.timeout(240)
def test_faults_around_a_fork_and_around_a_load_of_the_mold(serve, faults, subtests):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.setblocking(False)
        port = statsd.getsockname()[1]
        server = serve_mold(serve, "--statsd-host", f"127.0.0.1:{port}", environ=HOOKS)
        with subtests.test("gunicorn's number of workers after one dies before it is adopted"):
            assert_gunicorns_number_of_workers_is_right_after_one_dies_before_it_is_adopted(
                server, faults, statsd
            )
        faults.clear()
        wait_whole(server, 2, 1)
        with subtests.test("a request registers a pair"):
            assert_a_pair_that_a_request_registers_is_refused_with_an_error_that_says_what_to_do(server)
        for generation, kind in enumerate(LOAD_ENDS, start=2):
            with subtests.test(f"the load of a mold ends its process: {kind}"):
                assert_a_mold_whose_load_ends_its_process_costs_no_worker(server, faults, kind)
            faults.clear()
            wait_whole(server, 2, generation)
        assert_whole(server)


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
            failed = server.wait_event("spawn-failed", count=3)
            assert_answered_by(server, {survivor}, failed)
            limit_processes(mold, "1000")
            replaced(server, alone["pid"])
            gone = server.kill_worker()
            replaced(server, gone)
            assert server.slot(1)["mold"] == mold
            assert not server.events("load-failed")
            assert_whole(server)
        finally:
            server.end()


def test_a_mold_without_room_for_a_fork_is_asked_again_and_stays_fit(serve, subtests):
    """Under load=auto a mold that is called unfit would be given up for good."""
    server = serve("--load", "auto")
    server.wait_ready()
    for shortage, (what, room, reason) in SHORTAGES.items():
        mold = mold_of(server)["pid"]
        before, _ = resource.prlimit(mold, what)
        with subtests.test(shortage):
            since = Since(server)
            gone, survivor = server.pids()
            limit(mold, what, room)
            os.kill(gone, signal.SIGKILL)
            failed = since.wait("spawn-failed")
            assert failed["reason"] == reason
            assert_answered_by(server, {survivor}, failed)
            limit(mold, what, before)
            replaced(server, gone)
            assert mold_of(server)["pid"] == mold
            assert_serves(server)
        limit(mold, what, before)
        wait_whole(server, 2, 1)
    assert_whole(server)


# the mold dies


def assert_gunicorns_number_of_workers_is_right_after_one_dies_before_it_is_adopted(
    server, faults, statsd: socket.socket
) -> None:
    since = Since(server)
    known = children(server.arbiter)
    faults.set("after-fork", "wait")
    gone = server.kill_worker()
    orphan = newborn(server, known)
    server.signal(signal.SIGSTOP)  # so that the worker ends before it can be adopted
    os.kill(orphan, signal.SIGKILL)
    server._poll("its end", lambda: is_zombie(orphan), 20)
    faults.clear()
    server.signal(signal.SIGCONT)
    replaced(server, gone)
    (failed,) = since.events("load-failed")
    assert failed["type"] == "SIGKILL"
    assert len(children(server.arbiter)) == len(known)
    counts = Gauge(statsd)
    server._poll("gunicorn counts two workers", lambda: counts.last() == "2", 20)
    assert_serves(server)


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


# the mold cannot load


LOAD_ENDS = {
    "segv": ("SIGSEGV", "the process ended and reported no reason"),
    "exit-0": ("exit", "exit code 0"),
}


def assert_a_mold_whose_load_ends_its_process_costs_no_worker(server, faults, kind: str) -> None:
    since = Since(server)
    new = {server.status()["arbiter"]["generation"] + 1}
    before, old = server.pids(), mold_of(server)["pid"]
    faults.set("urlconf", kind, 2)
    server.signal(signal.SIGHUP)
    failed = since.wait("load-failed", count=2)
    assert (failed["slot"], failed["type"], failed["message"]) == (0, *LOAD_ENDS[kind])
    waits = since.events("back-off")
    assert [wait["slot"] for wait in waits] == [0] * len(waits)
    assert since.events("frozen")
    server.wait("the new generation", lambda status: {slot["generation"] for slot in status["slots"]} == new)
    since.wait("reloaded")
    exited = since.events("exited")
    assert not {event["pid"] for event in exited if event["by"] == "unknown"} & set(before)
    assert not [event for event in exited if event["pid"] in before and event["rule"] != "reload"]
    server._poll("the old mold's end", lambda: not Path(f"/proc/{old}").exists(), 20)
    assert_serves(server)


@pytest.mark.needs("root")
def test_a_mold_that_the_kernel_kills_for_want_of_memory_costs_no_worker(serve, faults, memory_cgroup):
    server = serve_mold(serve, prefix=inside(memory_cgroup.parent))
    before = server.pids()
    limit_file(memory_cgroup).write_text(str(6 << 20))
    faults.set("settings", "wait")
    server.signal(signal.SIGHUP)
    mold = server.wait_event("mold-spawned", count=2)["pid"]
    (memory_cgroup / "cgroup.procs").write_text(str(mold))
    faults.clear()
    failed = server.wait_event("load-failed")
    assert (failed["slot"], failed["type"]) == (0, "SIGKILL")
    assert failed["message"] == "by the kernel: out of memory"
    server.wait("generation 2", lambda status: {slot["generation"] for slot in status["slots"]} == {2})
    server.wait_event("reloaded")
    assert not [
        event for event in server.events("exited") if event["pid"] in before and event["rule"] != "reload"
    ]
    assert_whole(server)


def test_a_hook_that_raises_before_a_fork_is_not_blamed_on_the_mold(serve, tmp_path):
    conf, switch = tmp_path / "hook_conf.py", tmp_path / "switch"
    hook = "def pre_fork(server, worker):\n    if os.path.exists({!r}):\n        raise OSError('no disk')\n"
    conf.write_text("import os\n" + hook.format(str(switch)))
    server = serve_mold(
        serve, "-c", str(conf), guard=("--load-retry-delay", "2", "--load-retry-max-delay", "3")
    )
    mold, since = mold_of(server)["pid"], Since(server)
    switch.touch()
    server.kill_worker()
    assert since.wait("spawn-failed", count=2)["reason"] == "no disk"
    assert any(slot["not_spawned"] >= 2 for slot in server.status()["slots"])
    assert since.events("not-forked") == []
    switch.unlink()
    wait_whole(server, 2, 1)
    assert mold_of(server)["pid"] == mold
    assert_whole(server)


# pairs


def test_a_lock_that_a_registered_library_holds_half_of_the_time_hangs_no_worker(serve):
    patience = ("--load-retry-delay", "1ms", "--load-retry-max-delay", "2ms")
    server = serve_mold(serve, "--timeout", "20", guard=patience, environ={"GUINEA_PAIR": "lock"})
    with load_on(server, count=2, path="/ticks") as clients:
        for number in range(30):
            replaced(server, server.kill_worker(number % 2 + 1))
    assert {status for client in clients for _, status in client.answered} == {200}
    assert sum(len(client.failed) for client in clients) <= 30
    assert mold_of(server)["forks"] == 32
    assert not server.events("aborted")
    assert int(server.get("/ticks").body) > 0, "the thread runs in the worker"
    assert_whole(server)


WRONG_PAIRS = {
    "half": (True, "ConfigurationError", "Give start=, a function that makes it again in the worker."),
    "start-raises": (False, "PairError", "the queue cannot be opened again"),
}


@pytest.mark.parametrize("pair", WRONG_PAIRS)
def test_a_wrong_pair_is_a_failed_load_that_says_what_to_do(serve, pair):
    in_mold, kind, text = WRONG_PAIRS[pair]
    retries = ("--load-retry-delay", "50ms", "--load-retries", "2")
    server = serve("--load", "mold", *retries, workers=1, environ={"GUINEA_PAIR": pair})
    assert server.wait_exit() == 22
    failed = [line for line in server.log.splitlines() if "the load failed in step" in line]
    assert ("slot=0 " in failed[0]) is in_mold
    assert kind in failed[0]
    assert text in server.log
    assert not server._remaining_processes()


def assert_a_pair_that_a_request_registers_is_refused_with_an_error_that_says_what_to_do(server) -> None:
    reply = server.get("/pause")
    assert reply.status == 500
    assert reply.body.startswith("mold.pause: the pair")
    assert "Call it while the application loads" in reply.body
    assert_serves(server)


# what is refused


def test_where_a_sandbox_refuses_a_subreaper_each_worker_loads_and_one_line_says_so(serve):
    server = serve("--load", "mold", prefix=(sys.executable, str(Path(__file__).parent / "sandbox.py")))
    status = server.wait_ready()
    (line,) = [line for line in server.log.splitlines() if "PR_SET_CHILD_SUBREAPER" in line]
    assert "load=mold is not possible here, so each worker loads the application by itself" in line
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


@pytest.mark.parametrize(("name", "method"), [("PlainWorker", "init_process"), ("PatchingWorker", "patch")])
def test_a_worker_class_of_a_third_party_is_forked_from_the_mold_and_one_line_says_what_runs_later(
    serve, name, method
):
    server = serve_mold(serve, worker_class=f"guinea_worker.{name}")
    mold = mold_of(server)["pid"]
    (line,) = [line for line in server.log.splitlines() if "prepares its process in" in line]
    assert f"the worker class guinea_worker.{name} prepares its process in {method}, " in line
    assert {server.get("/").pid for _ in range(20)} <= set(server.pids())
    replaced(server, server.kill_worker())
    assert {slot["mold"] for slot in server.status()["slots"]} == {mold}
    assert_whole(server)
