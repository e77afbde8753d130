"""Start a real server on a project, watch it through its scoreboard, take it down whatever happens."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import is_live
from django_workerguard.scoreboard.snapshot import snapshot

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds until a test gives up; what it waits for takes a fraction of it

WORKER_CLASSES = {
    "sync": "sync",
    "gthread": "gthread",
    "gevent": "gevent",
    "asgi": "asgi",
    "uvicorn": "uvicorn_worker.UvicornWorker",
}


class WaitedError(AssertionError):
    """What was waited for did not happen."""


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def pid(self) -> int:
        return int(self.headers["x-worker-pid"])


@dataclass
class Server:
    """A server under test."""

    project: Path
    run_dir: Path
    arguments: Sequence[str] = ()
    environ: dict[str, str] = field(default_factory=dict)
    command: Sequence[str] = ("-m", "django_workerguard", "serve")
    prefix: Sequence[str] = ()
    python: str = sys.executable
    process: subprocess.Popen[bytes] | None = None
    socket_path: Path | None = None
    boards_in: Path | None = None  # where the boards lie, if not in the run directory

    @property
    def log_path(self) -> Path:
        return self.run_dir / "server.log"

    def start(self) -> Server:
        self.run_dir.mkdir(exist_ok=True)
        self.socket_path = self.run_dir / "http.sock"
        environ = {
            **{
                k: v
                for k, v in os.environ.items()
                if not k.startswith(("WORKERGUARD_", "DJANGO_", "GUNICORN_", "TZ"))
            },
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
            "RUNTIME_DIRECTORY": str(self.run_dir),
            **self.environ,
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    self.python,
                    *self.command,
                    "--bind",
                    f"unix:{self.socket_path}",
                    *self.arguments,
                ],
                cwd=self.project,
                env=environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self

    # what it says

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @contextlib.contextmanager
    def board(self, pid: int | None = None) -> Iterator[Board]:
        pattern = f"*.{pid}.board" if pid else "*.board"
        boards = [Board.open(path) for path in (self.boards_in or self.run_dir).glob(pattern)]
        live = sorted((b for b in boards if is_live(b)), key=lambda b: b.words[Header.STARTED_AT])
        try:
            if not live:
                raise FileNotFoundError("no scoreboard of a live server")
            yield live[-1]
        finally:
            for board in boards:
                board.close()

    def status(self, pid: int | None = None) -> dict[str, Any]:
        with self.board(pid) as board:
            return snapshot(board)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        with self.board() as board:
            return [event for event in read_events(board) if name in (None, event.get("event"))]

    def slot(self, number: int) -> dict[str, Any]:
        return next(slot for slot in self.status()["slots"] if slot["slot"] == number)

    def pids(self) -> list[int]:
        return [slot["pid"] for slot in self.status()["slots"] if slot["pid"]]

    @property
    def arbiter(self) -> int:
        assert self.process is not None
        return self.process.pid

    # waiting for evidence

    def wait(
        self, what: str, condition: Callable[[dict[str, Any]], Any], patience: float = PATIENCE
    ) -> dict[str, Any]:
        """Poll the snapshot until a condition holds of it, and return it."""
        deadline = time.monotonic() + patience
        last: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError):
                last = self.status()
                if condition(last):
                    return last
            self._still_running(what)
            time.sleep(0.02)
        raise WaitedError(f"{what}: not within {patience:g} s\n{last}\n{self.log}")

    def wait_ready(self, count: int | None = None, patience: float = PATIENCE) -> dict[str, Any]:
        def all_ready(status: dict[str, Any]) -> bool:
            wanted = count if count is not None else status["target"]
            return bool(status["target"]) and status["ready"] >= wanted

        return self.wait(f"{count or 'all'} ready", all_ready, patience)

    def wait_event(
        self, name: str, matching: Callable[[dict[str, Any]], Any] = lambda event: True, count: int = 1
    ) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def seen(_: dict[str, Any]) -> bool:
            found[:] = [event for event in self.events(name) if matching(event)]
            return len(found) >= count

        self.wait(f"event {name}", seen)
        return found[-1]

    def wait_log(self, text: str, patience: float = PATIENCE) -> None:
        self._poll(f"{text!r} in the log", lambda: text in self.log, patience)

    def wait_exit(self, patience: float = PATIENCE) -> int:
        assert self.process is not None
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise WaitedError(f"the server did not end within {patience:g} s\n{self.log}") from None

    def _poll(self, what: str, condition: Callable[[], Any], patience: float) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                raise WaitedError(f"{what}: not within {patience:g} s\n{self.log}")
            time.sleep(0.02)

    def _still_running(self, what: str) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise WaitedError(f"{what}: the server ended with {self.process.returncode}\n{self.log}")

    # what is done to it

    def get(self, path: str = "/", *, headers: dict[str, str] | None = None, timeout: float = 20.0) -> Reply:
        """Make one request over a new connection. Raises OSError or http.client.HTTPException."""
        assert self.socket_path is not None
        connection = UnixConnection(self.socket_path, timeout)
        try:
            connection.request(
                "GET", path, headers={"Host": "localhost", "Connection": "close", **(headers or {})}
            )
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
        finally:
            connection.close()

    def statuses(self, count: int, path: str = "/") -> Counter[int]:
        return Counter(self.get(path).status for _ in range(count))

    def signal(self, number: int) -> None:
        os.kill(self.arbiter, number)

    def stop(self) -> int:
        """Ask it to stop and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def end(self) -> None:
        """Take down whatever is left, harder every time."""
        assert self.process is not None
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            if number == signal.SIGCONT:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        for pid in self._left_behind():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left_behind(self) -> list[int]:
        """Find processes that have our log open: every child of the server inherits it."""
        ours = str(self.log_path)
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if int(entry.name) != os.getpid() and (entry / "fd" / "2").readlink() == Path(ours):
                    found.append(int(entry.name))
        return found


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
