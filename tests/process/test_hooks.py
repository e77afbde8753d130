"""Every hook of a gunicorn.conf.py runs as in gunicorn, and so does ``--reload``."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import TIMEOUT, Faults, Server, Since, wait_whole

HOOKS = {
    "on_starting": "server",
    "when_ready": "server",
    "on_reload": "server",
    "on_exit": "server",
    "pre_exec": "server",
    "pre_fork": "server, worker",
    "post_fork": "server, worker",
    "child_exit": "server, worker",
    "worker_exit": "server, worker",
    "nworkers_changed": "server, new, old",
    "post_worker_init": "worker",
    "worker_int": "worker",
    "worker_abort": "worker",
    "pre_request": "worker, request",
    "post_request": "worker, request, environ, response",
}
CONF = """
import json, os

def note(name, **about):
    with open(os.environ["HOOKS_LOG"], "a") as file:
        file.write(json.dumps({"name": name, "pid": os.getpid(), "about": about}) + "\\n")

def end_at(place):
    path = os.environ["HOOKS_LOG"] + "." + place
    if os.path.exists(path):
        os._exit(int(open(path).read()))
"""
TELL = {
    "worker": "worker=worker.pid",
    "server": "server=getattr(server, 'pid', 0)",
    "new": "new=new",
    "old": "old=old",
    "request": "path=request.path",
    "response": "status=getattr(response, 'status_code', None)",
}
# uvicorn's worker answers requests and signals without asking gunicorn
STATUS_SHOWN = ("sync", "gthread", "gevent")
REQUEST_HOOKS = ("sync", "gthread", "gevent", "asgi")


@dataclass(frozen=True)
class Note:
    name: str
    pid: int
    about: dict[str, Any]


class Notes:
    """The hooks that ran, in a file which they append to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hooks.log"
        self.conf = directory / "gunicorn.conf.py"
        self.conf.write_text(CONF + "".join(_hook(name, arguments) for name, arguments in HOOKS.items()))

    @property
    def environ(self) -> dict[str, str]:
        return {"HOOKS_LOG": str(self.path)}

    def of(self, name: str) -> list[Note]:
        return [note for note in self.all() if note.name == name]

    def all(self) -> list[Note]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [Note(**json.loads(line)) for line in lines]

    def end_at(self, place: str, code: int | None) -> None:
        self.fail(place, None if code is None else str(code))

    def fail(self, place: str, how: str | None) -> None:
        """Switch a failure of a hook on, or off with None."""
        path = self.path.with_name(f"{self.path.name}.{place}")
        path.unlink(missing_ok=True) if how is None else path.write_text(how)


def _hook(name: str, arguments: str) -> str:
    told = ", ".join(TELL[argument] for argument in arguments.split(", ") if argument in TELL)
    return f"\ndef {name}({arguments}):\n    note({name!r}, {told})\n    end_at({name!r})\n"


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


def pids(notes: list[Note]) -> list[int]:
    return [note.pid for note in notes]


def child_exits(notes: Notes) -> Counter[int]:
    return Counter(note.about["worker"] for note in notes.of("child_exit"))


@pytest.mark.timeout(400)
def test_the_hooks_of_a_server_from_its_start_to_its_end(
    worker_class: str, serve, notes: Notes, faults: Faults, subtests: pytest.Subtests
) -> None:
    server: Server = serve("-k", worker_class, "-c", str(notes.conf), environ=notes.environ)
    wait_whole(server)
    seen = set(server.pids())

    with subtests.test("the start"):
        assert_hooks_of_a_start(server, notes)
    with subtests.test("requests"):
        assert_hooks_of_requests(server, notes, worker_class)
    if worker_class in REQUEST_HOOKS:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGABRT):
            with subtests.test(f"a worker that is interrupted by {number.name}"):
                assert_hooks_of_an_interrupted_worker(server, notes, number)
            wait_whole(server)
    with subtests.test("worker_exit gets the arbiter in the middle of a load too"):
        assert_hooks_of_a_load_that_is_ended(server, notes, faults)
    faults.clear()
    wait_whole(server)
    with subtests.test("pre_exec runs before the second arbiter"):
        assert_hooks_of_a_second_arbiter(server, notes)
    wait_whole(server)
    if worker_class == "sync":
        with subtests.test("workers that end in every way"):
            seen |= end_workers_in_every_way(server, notes, faults)
        faults.clear()
        notes.end_at("post_fork", None)
        wait_whole(server)
    with subtests.test("a change, a reload and the end"):
        seen |= set(server.pids())
        assert_hooks_of_a_change_and_of_the_end(server, notes, worker_class)
    with subtests.test("child_exit has run once for every dead worker, whatever its end"):
        exits = [note for note in notes.of("child_exit") if note.about["server"] == server.arbiter]
        assert set(child_exits(notes).values()) == {1}
        assert seen <= {note.about["worker"] for note in exits}
        assert set(pids(exits)) == {server.arbiter}
        forks = [note for note in notes.of("pre_fork") if note.pid == server.arbiter]
        forked = [note for note in notes.of("post_fork") if note.about["server"] == server.arbiter]
        assert len(exits) == len(forks) == len(forked)


def assert_hooks_of_a_start(server: Server, notes: Notes) -> None:
    arbiter, workers = server.arbiter, set(server.pids())
    names = [note.name for note in notes.all() if note.pid == arbiter]
    assert names[:3] == ["nworkers_changed", "on_starting", "when_ready"]
    assert Counter(names) == {"nworkers_changed": 1, "on_starting": 1, "when_ready": 1, "pre_fork": 2}
    assert notes.of("nworkers_changed")[0].about | {"server": 0} == {"server": 0, "new": 2, "old": None}
    for name in ("post_fork", "post_worker_init"):
        assert Counter(pids(notes.of(name))) == dict.fromkeys(workers, 1), name
    assert {note.about["worker"] for note in notes.of("post_fork")} == workers
    assert {note.about["server"] for note in notes.of("post_fork")} == {arbiter}
    assert "child_exit" not in {note.name for note in notes.all()}


def assert_hooks_of_requests(server: Server, notes: Notes, worker_class: str) -> None:
    answered = [server.get("/").pid for _ in range(5)]
    server.get("/broken")
    expected = answered if worker_class in REQUEST_HOOKS else []

    def got(name: str) -> Counter[int]:
        return Counter(note.pid for note in notes.of(name) if note.about["path"] == "/")

    for name in ("pre_request", "post_request"):
        server.wait(name, lambda _, name=name: got(name) == Counter(expected))
    if worker_class in STATUS_SHOWN:

        def statuses() -> Counter[int]:
            return Counter(note.about["status"] for note in notes.of("post_request"))

        server.wait("their statuses", lambda _: statuses() == {200: 5, 500: 1})
    server.wait(  # beside the hooks
        "the count",
        lambda status: (
            [sum(slot[name] for slot in status["slots"]) for name in ("requests", "errors_5xx")] == [6, 1]
        ),
    )


def assert_hooks_of_an_interrupted_worker(server: Server, notes: Notes, number: signal.Signals) -> None:
    hook = "worker_abort" if number == signal.SIGABRT else "worker_int"
    since, before = Since(server), len(notes.of(hook))
    victim = server.pids()[0]
    os.kill(victim, number)
    server.wait("its end", lambda _: victim in child_exits(notes))
    assert pids(notes.of(hook)[before:]) == [victim]
    since.wait("ready")
    assert server.statuses(5) == {200: 5}


def assert_hooks_of_a_load_that_is_ended(server: Server, notes: Notes, faults: Faults) -> None:
    since = Since(server)
    faults.set("ready", "hang", 1)
    victim = server.pids()[0]
    os.kill(victim, signal.SIGKILL)
    status = server.wait(
        "the hang", lambda status: faults.used_up("ready") and status["slots"][0]["pid"] not in (None, victim)
    )
    loading = status["slots"][0]["pid"]
    os.kill(loading, signal.SIGTERM)
    since.wait("load-failed")
    ended = [note for note in notes.of("worker_exit") if note.pid == loading]
    assert [note.about["server"] for note in ended] == [server.arbiter]


def assert_hooks_of_a_second_arbiter(server: Server, notes: Notes) -> None:
    server.signal(signal.SIGUSR2)
    status = server.wait(
        "the second", lambda status: status["arbiter"]["pid"] != server.arbiter and status["ready"]
    )
    second = status["arbiter"]["pid"]
    assert pids(notes.of("pre_exec")) == [second], "the forked process that becomes it"
    assert pids(notes.of("on_starting")) == [server.arbiter, second]
    os.kill(second, signal.SIGTERM)
    server._poll("its end", lambda: pids(notes.of("on_exit")) == [second], 20)
    server.wait_ready()


def end_workers_in_every_way(server: Server, notes: Notes, faults: Faults) -> set[int]:
    """Return the pids of slot 1 that were seen in between."""
    since, seen = Since(server), set()

    def kill(number: int) -> None:
        status = server.wait("a process", lambda status: status["slots"][0]["pid"])
        since = Since(server)
        os.kill(status["slots"][0]["pid"], number)
        seen.add(since.wait("spawned", lambda event: event["slot"] == 1)["pid"])

    kill(signal.SIGKILL)
    since.wait("ready")
    for number, code in enumerate((3, 4, 0, 22)):  # the first two stop gunicorn
        notes.end_at("post_fork", code)
        kill(signal.SIGKILL)
        since.wait("load-failed", count=number + 1)
        notes.end_at("post_fork", None)
        since.wait("ready", count=number + 2)
    faults.set("ready", "memory", 1)
    kill(signal.SIGKILL)
    since.wait("load-failed", count=5)
    since.wait("ready", count=6)
    kill(signal.SIGTERM)
    since.wait("ready", count=7)
    return seen


def assert_hooks_of_a_change_and_of_the_end(server: Server, notes: Notes, worker_class: str) -> None:
    before = Counter(note.name for note in notes.all())
    workers = server.pids()

    def since(name: str) -> list[Note]:
        return notes.of(name)[before[name] :]

    server.signal(signal.SIGTTIN)
    server.wait_ready(3)
    changed = since("nworkers_changed")[-1].about
    assert (changed["new"], changed["old"]) == (3, 2)

    server.signal(signal.SIGHUP)
    server.wait("the new code", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))
    server.wait("the old ones to go", lambda _: len(since("child_exit")) == 3)
    assert pids(since("on_reload")) == [server.arbiter]
    assert not since("on_starting")

    assert server.stop() == 0
    assert pids(since("on_exit")) == [server.arbiter]
    assert notes.all()[-1].name == "on_exit"
    left = Counter(pids(since("worker_exit")))
    assert left == Counter([*workers, *pids(since("post_fork"))])


# hooks that fail in the arbiter, whose end would be the server's

FAILING = """
import itertools
ERRORS = {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "error": RuntimeError("no")}
kinds = itertools.cycle(ERRORS)

def fail(name):
    path = os.environ["HOOKS_LOG"] + "." + name
    if os.path.exists(path):
        with open(path) as file:
            kind = file.read()
        raise ERRORS[next(kinds) if kind == "each" else kind]

def pre_fork(server, worker):
    fail("pre_fork")

def child_exit(server, worker):
    fail("child_exit")

def on_reload(server):
    fail("on_reload")

def nworkers_changed(server, new, old):
    fail("nworkers_changed")
"""
COST_NOTHING = ("child_exit", "on_reload", "nworkers_changed")


@pytest.mark.timeout(300)
def test_hooks_that_exit_in_the_running_arbiter_and_a_worker_that_is_aborted(
    serve, notes: Notes, subtests: pytest.Subtests
) -> None:
    notes.conf.write_text(notes.conf.read_text() + FAILING)
    # a timeout that no worker on a busy machine needs
    server: Server = serve("--timeout", "10", "-c", str(notes.conf), environ=notes.environ)
    wait_whole(server)

    with subtests.test("a pre_fork hook that exits costs its worker alone"):
        notes.fail("pre_fork", "exit")
        os.kill(server.slot(1)["pid"], signal.SIGKILL)
        failed = server.wait_event("spawn-failed")
        assert failed["reason"] == "the pre_fork hook raised SystemExit(3)"
        assert server.statuses(6) == {200: 6}
        notes.fail("pre_fork", None)
        server.wait_ready()
        assert server.status()["arbiter"]["errors"] == 0
    notes.fail("pre_fork", None)
    wait_whole(server)

    with subtests.test("worker_abort runs on a timeout"):
        threading.Thread(target=answer_or_none, args=(server, "/slow?seconds=50"), daemon=True).start()
        aborted = server.wait_event("aborted")
        assert aborted["rule"] == "timeout"
        victim = aborted["pid"]
        server.wait_event("exited", lambda event: event["pid"] == victim)
        assert pids(notes.of("worker_abort")) == [victim]
        server.wait_ready()
    wait_whole(server)

    for kind in ("exit", "interrupt"):  # test_arbiter_survives.py has RuntimeError, on every worker class
        with subtests.test("hooks of the arbiter cost nothing", error=kind):
            for name in COST_NOTHING:
                notes.fail(name, kind)
            assert_hooks_that_fail_cost_nothing(server)
        for name in COST_NOTHING:
            notes.fail(name, None)
        wait_whole(server)

    with subtests.test("a stop with hooks that fail"):
        server.signal(signal.SIGTTIN)
        wait_whole(server, 3)
        notes.fail("child_exit", "each")
        begin = len(server.log)
        assert server.stop() == 0
        log = server.log[begin:]
        assert log.count("Exception in child_exit hook") == 3
        assert all(error in log for error in ("SystemExit: 3", "KeyboardInterrupt", "RuntimeError: no"))


def assert_hooks_that_fail_cost_nothing(server: Server) -> None:
    since, begin = Since(server), len(server.log)

    def wait_log(text: str) -> None:
        server._poll(text, lambda: text in server.log[begin:], TIMEOUT)

    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    wait_log("Exception in child_exit hook")
    server.signal(signal.SIGTTIN)
    wait_log("Exception in nworkers_changed hook")
    server.wait("three workers", lambda status: status["ready"] == 3)
    server.signal(signal.SIGHUP)
    wait_log("Exception in on_reload hook")
    since.wait("reloaded")  # with two workers, as the configuration has it
    assert server.statuses(4) == {200: 4}


# --reload

BROKEN = {
    "a syntax error": "def broken(:",
    "an import error": "import a_module_that_does_not_exist",
    "another exception": "1 / 0",
}


@pytest.mark.timeout(300)
def test_reload_serves_nothing_from_broken_code_and_again_from_mended(worker_class, serve, subtests):
    server = serve("-k", worker_class, "--", "--reload", project_copy=True, workers=1)
    server.wait_ready()
    views = server.project / "guinea_app" / "views.py"
    whole = views.read_text()
    changed = whole.replace('f"pid {os.getpid()}\\n"', '"changed\\n"')
    assert changed != whole

    def touched() -> bool:
        os.utime(views)  # again and again: gunicorn's reloader may have its first look after the change
        return True

    with subtests.test("changed code"):
        views.write_text(changed)
        server._poll("the change", lambda: touched() and body(server) == "changed\n", 60)

    for name, broken in BROKEN.items() if worker_class == "sync" else list(BROKEN.items())[:1]:
        with subtests.test(name):
            since, begin = Since(server), len(server.log)
            views.write_text(f"{changed}\n{broken}\n")
            server.wait(
                "no worker is ready",
                lambda status, since=since: (
                    touched() and status["ready"] == 0 and since.events("load-failed")
                ),
            )
            # a worker that leaves may still accept for a moment, with the code from before
            server._poll("no answer from old code", lambda: answer_or_none(server) in (None, 503), 60)
            since.wait("load-failed", count=4)
            assert "Traceback" in server.log[begin:]
            assert server.status()["ready"] == 0

            views.write_text(whole)
            server.wait_ready()
            assert body(server).startswith("pid ")
            assert server.statuses(10) == {200: 10}


def body(server: Server) -> str:
    try:
        return server.get("/", timeout=5).body
    except OSError:
        return ""


def answer_or_none(server: Server, path: str = "/") -> int | None:
    try:
        return server.get(path, timeout=2).status
    except OSError:
        return None


SLOW_EXIT = """
import os, pathlib, threading, time

def wait():
    time.sleep(600)

def worker_exit(server, worker):
    threading.Thread(target=wait, daemon=True).start()
    pathlib.Path(os.environ["HOOKS_LOG"]).open("a").write(f"{worker.pid}\\n")
    time.sleep(600)
"""


# gunicorn's asgi class takes uvloop where it is installed, as it is here; uvicorn's does so too
@pytest.mark.parametrize(
    "kind", ["sync", "gthread", "gevent", "asgi", "asgi+asyncio", "uvicorn_worker.UvicornWorker"]
)
def test_the_signals_of_a_worker_that_is_at_its_end(serve, tmp_path: Path, kind: str) -> None:
    """Its event loop has ended, and with it the loop's handlers; a hook goes on."""
    conf, ending = tmp_path / "gunicorn.conf.py", tmp_path / "ending"
    conf.write_text(SLOW_EXIT)
    worker_class, _, loop = kind.partition("+")
    loop_of_asgi = f"--asgi-loop {loop}" if loop else ""
    environ = {"HOOKS_LOG": str(ending), "GUNICORN_CMD_ARGS": loop_of_asgi}
    server: Server = serve(
        "-k", worker_class, "-c", str(conf), "--worker-reload-mercy", "5s", environ=environ
    )
    wait_whole(server)
    quick, slow = server.pids()
    for pid in (quick, slow):
        os.kill(pid, signal.SIGTERM)
    server._poll("the hooks", lambda: ending.exists() and len(ending.read_text().split()) == 2, TIMEOUT)

    for number in (signal.SIGTERM, signal.SIGUSR1):  # a second request to leave, and a rotation of the logs
        os.kill(slow, number)
    os.kill(quick, signal.SIGQUIT)
    ended = server.wait_event("exited", lambda event: event["pid"] == quick)
    assert ended["end"] == "exit code 0"
    aborted = server.wait_event("aborted")
    assert (aborted["pid"], aborted["rule"]) == (slow, "worker-reload-mercy")
    server.wait_event("exited", lambda event: event["pid"] == slow)
    server._poll(
        "its stacks", lambda: "in wait\n" in server.log and "in worker_exit\n" in server.log, TIMEOUT
    )
