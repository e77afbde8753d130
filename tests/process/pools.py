"""A Celery worker under test, on a broker of its own: Redis, RabbitMQ or a directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_workerguard.report.findings import with_findings
from django_workerguard.scoreboard.board import Board, BoardError
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.snapshot import snapshot
from tests.process.harness import ROOT, TIMEOUT, WaitError

PROJECT = Path(__file__).parent / "pool"
SENDER = """
import json, sys, pool_app
for line in sys.stdin:
    task, arguments = json.loads(line)
    task = getattr(pool_app, task)
    with pool_app.app.connection_for_write() as connection:
        producer = pool_app.app.amqp.Producer(connection)
        for each in arguments:
            task.apply_async(each, producer=producer)
    print("sent", flush=True)
"""
PATH = (ROOT, PROJECT, ROOT / "example_project")  # the example has the broker that is a directory


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """Run a Redis of our own, without persistence, and yield its URL."""
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    log = (directory / "redis.log").open("wb")
    with subprocess.Popen(("redis-server", *options), cwd=directory, stdout=log, stderr=log) as server:
        try:
            _wait_port(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.kill()
    log.close()


@contextlib.contextmanager
def rabbitmq_server(directory: Path) -> Iterator[str]:
    """Run a RabbitMQ of our own, with its own epmd, and yield its URL."""
    port, distribution, names = free_port(), free_port(), free_port()
    (directory / "plugins").write_text("[].")
    environ = {
        **os.environ,
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_NODENAME": f"guard{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_CONFIG_FILE": str(directory / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
    }
    log = (directory / "rabbitmq.log").open("wb")
    # not by the script in the path, which would turn to the user of the package
    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    with subprocess.Popen((program,), env=environ, stdout=log, stderr=log, start_new_session=True) as server:
        try:
            _wait_port(port, 2 * TIMEOUT)
            yield f"amqp://guest:guest@127.0.0.1:{port}//"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            subprocess.run(("epmd", "-port", str(names), "-kill"), env=environ, capture_output=True)
    log.close()


def _wait_port(port: int, timeout: float = TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise WaitError(f"nobody listens on port {port}")


@dataclass
class PoolWorker:
    """One ``celery worker`` process with its pool, and who sends it tasks."""

    directory: Path
    broker: str
    options: dict[str, Any] = field(default_factory=dict)  # WORKERGUARD["CELERY"]
    celery: dict[str, Any] = field(default_factory=dict)  # Celery's settings
    environ: dict[str, str] = field(default_factory=dict)
    concurrency: int = 4
    arguments: tuple[str, ...] = ()
    guarded: bool = True
    project: Path | None = None  # where it is started, and where its web server is
    run_dir: Path | None = None  # where its board lies
    process: subprocess.Popen[bytes] | None = None
    _sender: subprocess.Popen[str] | None = None
    _last: int = 0  # the number of the last event before the part of a test that runs now
    _traced: int = 0  # the number of lines that the tasks before it left
    _logged: int = 0  # the length of the log before it

    def __post_init__(self) -> None:
        (self.directory / "faults").mkdir(parents=True, exist_ok=True)
        self.project = self.project or self.directory
        self.run_dir = self.run_dir or self.directory / "run"
        self.run_dir.mkdir(exist_ok=True)

    @property
    def _environ(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DJANGO_", "WORKERGUARD"))
        }
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(map(str, PATH)),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "pool_settings",
            "POOL_DIRECTORY": str(self.directory),
            "POOL_BROKER": self.broker,
            "POOL_GUARDED": str(int(self.guarded)),
            "POOL_OPTIONS": json.dumps(self.options),
            "POOL_CELERY": json.dumps(self.celery),
            "WORKERGUARD_RUN_DIR": str(self.run_dir),
            **self.environ,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", "pool_app", *arguments]

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask this worker through its own broker; with a destination Celery returns as soon as it has the answer."""
        node = f"pool@{socket.gethostname()}"
        return self.run(*self.command(*words, "--destination", node, "--timeout", "30"))

    def start(self) -> PoolWorker:
        self.log_path = self.directory / "log"
        log = self.log_path.open("ab")
        self.process = subprocess.Popen(
            self.command(
                "worker", "-l", "info", "-c", str(self.concurrency), "-n", "pool@%h", *self.arguments
            ),
            cwd=self.project,
            env=self._environ,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        log.close()
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def run(self, *arguments: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Run another program in this worker's project: celery's own commands, or ours."""
        return subprocess.run(
            arguments, cwd=self.project, env=self._environ, capture_output=True, text=True, timeout=timeout
        )

    def workerguard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "django_workerguard.cli", *arguments)

    def send(self, task: str, *arguments: list[Any]) -> None:
        """Send tasks, each with its arguments, from one other process."""
        if self._sender is None:
            self._sender = subprocess.Popen(
                (sys.executable, "-c", SENDER),
                cwd=self.project,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._sender.stdin is not None
        assert self._sender.stdout is not None
        self._sender.stdin.write(json.dumps([task, arguments]) + "\n")
        self._sender.stdin.flush()
        answer = self._sender.stdout.readline()
        assert answer == "sent\n", answer

    def fault(self, place: str, kind: str, times: int | None = None) -> None:
        half = self.directory / f".{place}"
        half.write_text(kind if times is None else f"{kind} {times}")
        half.rename(self.directory / "faults" / place)

    def repair(self) -> None:
        for path in (self.directory / "faults").iterdir():
            path.unlink(missing_ok=True)

    def begin(self) -> None:
        """Begin another part of a test: once all children are idle and loaded, forget events, tasks and log lines."""
        self.repair()
        self.wait("whole", self._is_whole)
        self._last = max((event["number"] for event in self.events()), default=self._last)
        self._traced += len(self.trace())
        self._logged += len(self.log)

    # what became of it

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")[self._logged :]

    def trace(self) -> list[tuple[str, int, bool]]:
        """Return what the tasks left: number, pid, and whether the child had been prepared."""
        path = self.directory / "trace"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            (number, int(pid), prepared == "1")
            for number, pid, prepared in (line.split() for line in lines[self._traced :])
        ]

    def ran(self) -> Counter[str]:
        return Counter(number for number, _, _ in self.trace())

    @contextlib.contextmanager
    def board(self) -> Iterator[Board]:
        assert self.run_dir is not None
        for path in self.run_dir.glob(f"*.{self.pid}.board"):
            board = Board.open(path)
            try:
                yield board
            finally:
                board.close()
            return
        raise WaitError("there is no board")

    def status(self) -> dict[str, Any]:
        with self.board() as board:
            return with_findings(snapshot(board))

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        with self.board() as board:
            return [event for event in read_events(board, after=self._last) if name in (None, event["event"])]

    def pids(self) -> list[int]:
        return [slot["pid"] for slot in self.status()["slots"] if slot["state"] == "ready"]

    def _is_whole(self) -> bool:
        slots = self.status()["slots"]
        return len(slots) == self.concurrency and all(
            slot["state"] == "ready" and not slot["successor"] and not slot["in_flight"] for slot in slots
        )

    def wait(self, what: str, condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(WaitError, BoardError, OSError):
                found = condition()
                if found:
                    return found
            if self.process is None or self.process.poll() is not None:
                raise WaitError(f"the worker has ended while waited for: {what}\n{self.log[-4000:]}")
            time.sleep(0.05)
        raise WaitError(f"waited {timeout:g} s for: {what}\n{self.log[-4000:]}")

    def wait_ready(self, count: int | None = None) -> None:
        wanted = self.concurrency if count is None else count
        self.wait(f"{wanted} ready", lambda: self.status()["ready"] == wanted)

    def wait_each_ready(self) -> None:
        """Wait until each slot has had a child that was ready. With a short lifetime they may never all be ready at once."""
        slots = range(1, self.concurrency + 1)
        self.wait("each ready", lambda: {event["slot"] for event in self.events("ready")}.issuperset(slots))

    def wait_ran(self, count: int, timeout: float = TIMEOUT) -> None:
        self.wait(f"{count} tasks", lambda: len(self.trace()) >= count, timeout)

    def wait_exit(self, timeout: float = TIMEOUT) -> int:
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WaitError(f"no end after {timeout:g} s\n{self.log[-4000:]}") from None

    def stop(self, timeout: float = TIMEOUT) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_exit(timeout)

    def end(self) -> None:
        """Take it down with its children, whatever it does."""
        if self._sender is not None:
            self._sender.kill()
            self._sender.communicate()
            self._sender = None
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.run_dir == self.directory / "run":
            shutil.rmtree(self.run_dir, ignore_errors=True)
