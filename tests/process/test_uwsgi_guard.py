"""The guard under uWSGI itself: a real uWSGI whose workers are killed and whose loads fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from django_workerguard.report.verdict import LONGEST_SILENCE
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, ServerKind
from tests.components import COMPONENTS
from tests.process.harness import PROJECT, ROOT, Reply, Server

pytestmark = pytest.mark.needs("uwsgi")


@dataclass
class Uwsgi(Server):
    """uWSGI on the guinea project, with the board of its guard where the harness looks for one."""

    def start(self) -> Uwsgi:
        self.run_dir.mkdir(exist_ok=True)
        self.socket_path = self.run_dir / "http.sock"
        home = ("--home", sys.prefix) if sys.prefix != sys.base_prefix else ()
        base = ("--master", "--die-on-term", "--min-worker-lifetime", "0", "--worker-reload-mercy", "2")
        where = (
            "--pythonpath",
            str(PROJECT),
            "--pythonpath",
            str(ROOT),
            "--module",
            "guinea_wsgi:application",
        )
        command = [
            COMPONENTS["uwsgi"].path() or "uwsgi",
            *base,
            "--http-socket",
            str(self.socket_path),
            *home,
        ]
        environ = {**os.environ, "RUNTIME_DIRECTORY": str(self.run_dir), **self.environ}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *where, *self.arguments],
                cwd=self.project,
                env={name: value for name, value in environ.items() if value is not None},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self

    def children(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.arbiter}/task/{self.arbiter}/children").read_text().split()
        ]

    def wait_listening(self, workers: int) -> None:
        """Wait until uWSGI has logged that this number of workers has loaded."""
        self._poll(f"{workers} loads", lambda: self.log.count("WSGI app 0") >= workers, 60)

    def visit(self, path: str = "/") -> Reply | None:
        """Send a request; None: the guard has ended the unloaded worker that had accepted it."""
        try:
            return self.get(path)
        except ConnectionError:
            return None

    def ask_until(self, condition: Callable[[], Any], what: str) -> None:
        """Send requests, as visitors do, until a condition is met."""

        def met() -> Any:
            for _ in range(3):
                self.visit()
            time.sleep(0.2)  # visitors, not a flood
            return condition()

        self._poll(what, met, 60)

    def beats(self, count: int) -> None:
        """Wait until the guard has looked so many times more."""
        for _ in range(count):
            with self.board() as board:
                before = board.words[Header.BEAT]
            self.wait("a look", lambda _, before=before: self._beat() != before)

    def _beat(self) -> int:
        with self.board() as board:
            return int(board.words[Header.BEAT])

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django_workerguard.cli", *command, "--run-dir", str(self.run_dir)],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr


@pytest.fixture
def uwsgi(tmp_path: Path, faults: Any) -> Iterator[Callable[..., Uwsgi]]:
    servers: list[Uwsgi] = []

    def start(*arguments: str, workers: int = 3, **environ: str) -> Uwsgi:
        own = {
            "DJANGO_SETTINGS_MODULE": "guinea_settings",
            "GUINEA_FAULTS": str(faults.directory),
            "GUINEA_FAULTS_ANYWHERE": "1",
            "GUINEA_UWSGI": "1",
            "GUINEA_PAGES": "1",
            **environ,
        }
        arguments = ("--processes", str(workers), *arguments)
        server = Uwsgi(PROJECT, tmp_path / f"run{len(servers)}", arguments, environ=own)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.end()
        print(f"--- log of uWSGI in {server.run_dir}\n{server.log}")


LAZY = ("--lazy-apps", "--enable-threads")


def test_the_incident(uwsgi, faults):
    server = uwsgi(*LAZY, workers=4)
    before = server.wait_ready(4)
    assert before["worker_class"] == "uwsgi"
    assert before["bind"] == [str(server.socket_path)]
    faults.set("ready", "memory")
    keeper = server.events("keeper")[-1]["slot"]
    first, second, _ = (slot["pid"] for slot in before["slots"] if slot["slot"] != keeper)
    for pid in (first, second):
        os.kill(pid, signal.SIGKILL)
    server.ask_until(lambda: server.events("killed"), "a worker is ended")
    server.wait_event("load-failed", lambda event: event["type"] == "NoApplication")
    text = server.run("status")
    assert "cannot load the application: NoApplication" in text or "stays unloaded: NoApplication" in text
    while not (answer := server.visit("/health/")) or "x-worker-pid" not in answer.headers:
        assert not answer or answer.status == 500  # of a worker without an application
    assert answer.status == 200  # two workers are ready, and the quorum is one
    faults.clear()
    server.ask_until(lambda: server.status()["ready"] == 4, "all are loaded again")
    assert server.statuses(40) == {200: 40}
    server.beats(2)  # the numbers are those of the latest look
    status = server.status()
    assert {slot["state"] for slot in status["slots"]} == {"ready"}
    assert [slot["failures"] for slot in status["slots"]] == [0] * 4
    assert sum(slot["requests"] for slot in status["slots"]) >= 40
    assert sum(slot["errors_5xx"] for slot in status["slots"]) >= 1
    killed = server.events("killed")
    assert {event["rule"] for event in killed} == {"failed-load"}
    untouched = {slot["pid"] for slot in before["slots"]} - {first, second}
    assert not untouched & {event["pid"] for event in killed}
    assert untouched <= set(server.pids())
    token = {"Authorization": "Bearer of-the-tests"}
    while "workerguard_" not in (metrics := server.get("/metrics/", headers=token).body):
        time.sleep(0.1)  # this worker has not looked yet
    assert re.search(r'^workerguard_load_failures_total{\w+="exception"} [1-9]', metrics, re.MULTILINE), (
        metrics
    )
    assert re.search(r"^workerguard_ready_workers 4", metrics, re.MULTILINE), metrics
    assert server.run("probe", "ready").startswith("ok")
    assert server.stop() == 0


def test_another_worker_goes_on_when_the_keeper_dies_or_hangs(uwsgi, faults):
    server = uwsgi(*LAZY, workers=3, WORKERGUARD_LOAD_RETRY_DELAY="1s", WORKERGUARD_LOAD_RETRY_MAX_DELAY="2s")
    server.wait_ready(3)
    faults.set("ready", "memory")
    keeper = server.events("keeper")[-1]
    victim = next(slot for slot in server.status()["slots"] if slot["slot"] != keeper["slot"])
    os.kill(victim["pid"], signal.SIGKILL)
    number = victim["slot"]
    server.ask_until(
        lambda: any(event["failures"] >= 2 for event in server.events("back-off")), "two are ended"
    )
    failures = server.slot(number)["failures"]
    os.kill(keeper["pid"], signal.SIGKILL)
    second = server.wait_event("keeper", lambda event: event["pid"] != keeper["pid"])
    server.ask_until(
        lambda: any(
            event["slot"] == number and event["failures"] > failures for event in server.events("back-off")
        ),
        "the back-off goes on",
    )
    faults.clear()
    server.ask_until(lambda: server.status()["ready"] == 3, "all are loaded again")
    os.kill(second["pid"], signal.SIGSTOP)
    try:
        third = server.wait_event("keeper", lambda event: event["pid"] not in (keeper["pid"], second["pid"]))
        assert server.events()[0]["event"] == "started"  # the history is still there
    finally:
        os.kill(second["pid"], signal.SIGCONT)
    server.beats(3)
    assert server.events("keeper")[-1] == third  # the one that hung does not take it back
    assert len(list(server.run_dir.glob("*.board"))) == 1


def test_loads_that_hang_are_ended_and_slow_ones_are_not(uwsgi, faults):
    server = uwsgi(*LAZY, WORKERGUARD_LOAD_TIMEOUT="12s")
    before = server.wait_ready(3)
    keeper = server.events("keeper")[-1]["slot"]
    number = next(slot["slot"] for slot in before["slots"] if slot["slot"] != keeper)
    faults.set("ready", "wait")
    server.kill_worker(number)
    loading = server.wait_event("spawned", lambda event: event["slot"] == number, count=2)["pid"]
    server.beats(2)
    faults.clear()
    server.wait_ready(3)
    assert server.slot(number)["pid"] == loading
    assert server.events("killed") == []

    faults.set("ready", "hang-in-c")
    os.kill(loading, signal.SIGKILL)
    killed = server.wait_event("killed")
    assert (killed["slot"], killed["rule"]) == (number, "load-timeout")
    faults.clear()
    server.wait_event("killed", count=1)
    server.wait_ready(3)


def test_if_all_are_unloaded_nobody_acts_and_a_reload_of_uwsgi_is_the_way_out(uwsgi, faults):
    server = uwsgi(*LAZY, workers=2)
    server.wait_ready(2)
    faults.set("ready", "memory")
    old = server.children()
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    server._poll("both have failed", lambda: server.log.count("no app loaded") >= 2, 60)
    unloaded = server.children()
    assert server.get().status == 500
    server.wait("silence", lambda status: status["arbiter"]["beat_age"] > LONGEST_SILENCE)
    assert server.run("probe", "ready").startswith("unavailable: no loaded worker has looked")
    assert "no loaded worker of uWSGI" in server.run("status")
    assert server.children() == unloaded
    faults.clear()
    written = server.events()[-1]["number"]
    server.signal(signal.SIGHUP)
    server.wait("the reload", lambda status: status["ready"] == 2 and status["arbiter"]["beat_age"] < 5)
    assert server.run("probe", "ready").startswith("ok")
    assert server.events()[0]["event"] == "started"
    assert server.events()[-1]["number"] > written
    assert server.statuses(10) == {200: 10}


def test_without_threads_the_guard_looks_when_requests_have_ended(uwsgi, faults):
    server = uwsgi("--lazy-apps")
    server.wait_listening(3)
    server.wait_log("uWSGI runs no Python threads")
    victim = server.children()[1]
    faults.set("ready", "memory")
    os.kill(victim, signal.SIGKILL)
    server.ask_until(lambda: "killed: failed-load" in server.log, "a worker is ended")
    (board,) = server.run_dir.glob("*.board")
    assert Board.open(board).words[Header.KIND] == ServerKind.UNATTENDED
    assert "no running server was found" in server.run("status")
    faults.clear()

    server.ask_until(lambda: server.log.count("WSGI app 0") == 4, "it is loaded again")
    assert server.statuses(30) == {200: 30}
    assert server.log.count("uWSGI runs no Python threads") == 1


def test_workers_that_cheaper_has_stopped_are_neither_wanted_nor_ended(uwsgi, faults):
    cheaper = ("--cheaper", "2", "--cheaper-initial", "2")
    server = uwsgi(*LAZY, *cheaper, workers=4)
    status = server.wait_ready(2)
    assert status["target"] == 2
    keeper = server.events("keeper")[-1]["slot"]
    number = next(slot["slot"] for slot in status["slots"] if slot["slot"] != keeper)
    faults.set("ready", "memory", times=1)
    server.kill_worker(number)
    server.ask_until(lambda: server.events("killed"), "it is ended")
    server.wait_ready(2)
    assert {event["slot"] for event in server.events("killed")} == {number}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--enable-threads",), "the application was loaded in uWSGI's master"),
        ((*LAZY, "--vhost"), "with the option vhost"),
    ],
)
def test_it_says_why_there_is_nothing_to_guard(uwsgi, arguments, reason):
    server = uwsgi(*arguments, workers=1)
    server.wait_log(f"The guard under uWSGI does nothing: {reason}")
    server.wait_log("WSGI app 0")
    assert server.get().status == 200
    assert server.log.count("The guard under uWSGI does nothing") == 1
    assert list(server.run_dir.glob("*.board")) == []


def test_a_directory_that_cannot_be_used_does_not_disturb_the_site(uwsgi, tmp_path):
    (tmp_path / "file").write_text("")
    server = uwsgi(*LAZY, workers=1, WORKERGUARD_RUN_DIR=str(tmp_path / "file"))
    server.wait_log("The guard cannot look at uWSGI's workers: no directory can hold the scoreboard")
    assert server.statuses(5) == {200: 5}
    before = time.monotonic()
    while time.monotonic() - before < 2.5:
        assert server.get().status == 200
        time.sleep(0.2)
    assert server.log.count("The guard cannot look") == 1


def outside(*command: str) -> subprocess.CompletedProcess[str]:
    own = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{PROJECT}",
        "DJANGO_SETTINGS_MODULE": "guinea_settings",
        "GUINEA_UWSGI": "1",
    }
    command = (sys.executable, *command)
    return subprocess.run(command, env={**os.environ, **own}, cwd=PROJECT, capture_output=True, text=True)


def test_outside_uwsgi_it_does_nothing():
    code = (
        "import django; django.setup(); import threading; print([one.name for one in threading.enumerate()])"
    )
    done = outside("-c", code)
    assert (done.stdout, done.stderr) == ("['MainThread']\n", "")


def test_the_check_says_what_it_cannot_do():
    done = outside("manage.py", "check")
    assert "workerguard.I001" in done.stdout + done.stderr
    assert done.returncode == 0


def test_serve_guarded_is_not_disturbed(serve):
    server = serve(workers=1, environ={"GUINEA_UWSGI": "1"})
    server.wait_ready(1)
    assert server.get("/who").body.startswith("slot=1")
    assert "under uWSGI" not in server.log
