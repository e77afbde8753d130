"""Every hook of a gunicorn.conf.py runs as in gunicorn, and so does ``--reload``."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.process.harness import Server

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
        path = self.path.with_name(f"{self.path.name}.{place}")
        path.unlink(missing_ok=True) if code is None else path.write_text(str(code))


def _hook(name: str, arguments: str) -> str:
    told = ", ".join(TELL[argument] for argument in arguments.split(", ") if argument in TELL)
    return f"\ndef {name}({arguments}):\n    note({name!r}, {told})\n    end_at({name!r})\n"


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path)


@pytest.fixture
def server(serve, notes: Notes, worker_class: str) -> Server:
    started: Server = serve("-k", worker_class, "-c", str(notes.conf), environ=notes.environ)
    started.wait_ready()
    return started


def pids(notes: list[Note]) -> list[int]:
    return [note.pid for note in notes]


def test_the_hooks_of_a_start(server, notes):
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


def test_the_hooks_of_a_request(server, notes, worker_class):
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
    counted = server.wait("the count", lambda status: sum(slot["requests"] for slot in status["slots"]) == 6)
    assert sum(slot["errors_5xx"] for slot in counted["slots"]) == 1, "beside the hooks, the count goes on"


def child_exits(notes: Notes) -> Counter[int]:
    return Counter(note.about["worker"] for note in notes.of("child_exit"))


@pytest.mark.parametrize("worker_class", ["sync"])
def test_child_exit_runs_once_for_every_dead_worker_whatever_its_end(server, notes, faults):
    seen = set(server.pids())

    def kill(number: int) -> None:
        slot = server.slot(1)
        os.kill(slot["pid"], number)
        status = server.wait("another", lambda status: status["slots"][0]["pid"] not in (slot["pid"], None))
        seen.add(status["slots"][0]["pid"])

    kill(signal.SIGKILL)
    server.wait_event("ready", count=3)
    for number, code in enumerate((3, 4, 0, 22)):  # the first two stop gunicorn
        notes.end_at("post_fork", code)
        kill(signal.SIGKILL)
        server.wait_event("load-failed", count=number + 1)
        notes.end_at("post_fork", None)
        server.wait_event("ready", count=number + 4)
    faults.set("ready", "memory", 1)
    kill(signal.SIGKILL)
    server.wait_event("load-failed", count=5)
    server.wait_event("ready", count=8)
    kill(signal.SIGTERM)
    server.wait_event("ready", count=9)
    assert server.stop() == 0

    exits = child_exits(notes)
    assert set(exits.values()) == {1}
    assert seen <= set(exits)
    assert {note.pid for note in notes.of("child_exit")} == {server.arbiter}
    assert len(exits) == len(notes.of("pre_fork")) == len(notes.of("post_fork"))


def test_the_hooks_of_a_change_and_of_the_end(server, notes, worker_class):
    server.signal(signal.SIGTTIN)
    server.wait_ready(3)
    changed = notes.of("nworkers_changed")[-1].about
    assert (changed["new"], changed["old"]) == (3, 2)

    server.signal(signal.SIGHUP)
    server.wait("the new code", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))
    server.wait("the old ones to go", lambda _: len(child_exits(notes)) == 3)
    assert pids(notes.of("on_reload")) == [server.arbiter]
    assert len(notes.of("on_starting")) == 1

    assert server.stop() == 0
    assert pids(notes.of("on_exit")) == [server.arbiter]
    assert notes.all()[-1].name == "on_exit"
    assert set(child_exits(notes).values()) == {1}
    left = Counter(pids(notes.of("worker_exit")))
    if worker_class in REQUEST_HOOKS:  # uvicorn ends by the signal that stopped it
        assert left == Counter(pids(notes.of("post_fork")))


def test_worker_exit_gets_the_arbiter_in_the_middle_of_a_load_too(server, notes, faults):
    faults.set("ready", "hang")
    victim = server.pids()[0]
    os.kill(victim, signal.SIGKILL)
    loading = server.wait("a load", lambda status: status["slots"][0]["step"] == "app")["slots"][0]["pid"]
    os.kill(loading, signal.SIGTERM)
    server.wait_event("load-failed")
    ended = [note for note in notes.of("worker_exit") if note.pid == loading]
    assert [note.about["server"] for note in ended] == [server.arbiter]


@pytest.mark.parametrize("worker_class", REQUEST_HOOKS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGABRT])
def test_the_hooks_of_a_worker_that_is_interrupted(number, server, notes):
    victim = server.pids()[0]
    os.kill(victim, number)
    server.wait("its end", lambda _: victim in child_exits(notes))
    hook = "worker_abort" if number == signal.SIGABRT else "worker_int"
    assert pids(notes.of(hook)) == [victim]
    server.wait_event("ready", count=3)
    assert server.statuses(5) == {200: 5}


def test_worker_abort_runs_on_a_timeout(serve, notes):
    server = serve("--timeout", "1", "-c", str(notes.conf), environ=notes.environ)
    server.wait_ready()
    threading.Thread(target=answer_or_none, args=(server, "/slow?seconds=50"), daemon=True).start()
    victim = server.wait_event("aborted")["pid"]
    server.wait_event("exited", lambda event: event["pid"] == victim)
    assert pids(notes.of("worker_abort")) == [victim]
    server.wait_ready()


def test_pre_exec_runs_before_the_second_arbiter(server, notes):
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
    assert server.stop() == 0


# --reload


def test_reload_serves_nothing_from_broken_code_and_again_from_mended(worker_class, serve):
    assert_reloads(serve, worker_class, "def broken(:")


@pytest.mark.parametrize("broken", ["import a_module_that_does_not_exist", "1 / 0"])
def test_reload_with_other_errors(broken, serve):
    assert_reloads(serve, "sync", broken)


def assert_reloads(serve: Callable[..., Server], worker_class: str, broken: str) -> None:
    server = serve("-k", worker_class, "--", "--reload", project_copy=True)
    server.wait_ready()
    views = server.project / "guinea_app" / "views.py"
    whole = views.read_text()
    changed = whole.replace('f"pid {os.getpid()}\\n"', '"changed\\n"')
    assert changed != whole

    def touched() -> bool:
        os.utime(views)  # again and again: gunicorn's reloader may have its first look after the change
        return True

    views.write_text(changed)
    server._poll("the change", lambda: touched() and body(server) == "changed\n", 60)
    views.write_text(f"{changed}\n{broken}\n")
    server.wait(
        "nobody is ready", lambda status: touched() and status["ready"] == 0 and server.events("load-failed")
    )
    # a worker that leaves may still accept for a moment, with the code from before
    server._poll("no answer from old code", lambda: answer_or_none(server) in (None, 503), 60)
    assert "Traceback" in server.log
    server.wait_event("load-failed", count=4)
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


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()", "RuntimeError('no')"])
def test_a_hook_that_exits_in_the_running_arbiter_costs_nothing(error, serve, tmp_path):
    hooks = ("child_exit(server, worker)", "on_reload(server)", "nworkers_changed(server, new, old)")
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(
        "import sys\nstarted = []\n"
        + "".join(
            f"def {hook}:\n    if started: raise {error}\n    started.append(1)\n"
            if "nworkers" in hook
            else f"def {hook}:\n    raise {error}\n"
            for hook in hooks
        )
    )
    server = serve("-c", str(conf), workers=2)
    server.wait_ready()
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    server.wait_log("Exception in child_exit hook")
    server.signal(signal.SIGTTIN)
    server.wait_log("Exception in nworkers_changed hook")
    server.wait("three workers", lambda status: status["ready"] == 3)
    server.signal(signal.SIGHUP)
    server.wait_log("Exception in on_reload hook")
    server.wait_event("reloaded")
    assert server.statuses(4) == {200: 4}
    assert server.stop() == 0


def test_a_pre_fork_hook_that_exits_costs_its_worker_alone(serve, tmp_path):
    """It runs in the arbiter, where a SystemExit would end the server."""
    fault, conf = tmp_path / "exit", tmp_path / "gunicorn.conf.py"
    conf.write_text(
        f"import os\ndef pre_fork(server, worker):\n    if os.path.exists({str(fault)!r}):\n        raise SystemExit(3)\n"
    )
    server = serve("-c", str(conf))
    server.wait_ready()
    fault.touch()
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    failed = server.wait_event("spawn-failed")
    assert failed["reason"] == "the pre_fork hook raised SystemExit(3)"
    assert server.statuses(6) == {200: 6}
    fault.unlink()
    server.wait_ready()
    assert server.status()["arbiter"]["errors"] == 0
