"""A guarded server for tests: start it, make it fail, observe it, stop it. Runs in the test's process.

The fixture ``guarded_server`` of the pytest plugin returns a `GuardedServer`, which also works without pytest.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import is_live
from django_workerguard.scoreboard.snapshot import snapshot

TIMEOUT = 60.0  # seconds until a wait fails; it normally takes a fraction of that
PAUSES = (0.02, 0.06)  # seconds between two looks of a wait: at first, and at most
END_PATIENCE = 3.0  # seconds that a server gets for each signal once its test is over
# prefixes of environment variables that configure the guard and gunicorn, or that systemd sets
NOT_INHERITED = ("WORKERGUARD_", "GUNICORN_", "NOTIFY_SOCKET", "LISTEN_FD", "LISTEN_PID", "WATCHDOG_")


class WaitError(AssertionError):
    """The condition of a wait was not met. The message has the last state and the server's log."""


@dataclass(frozen=True)
class Reply:
    """A response; the names of the headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass
class GuardedServer:
    """A server under test. It listens on a unix socket in ``run_dir``, and on the addresses in ``arguments``."""

    project: Path
    run_dir: Path
    arguments: Sequence[str] = ()
    environ: Mapping[str, str | None] = field(default_factory=dict)  # None: remove an inherited variable
    command: Sequence[str] = ("-m", "django_workerguard", "serve")
    prefix: Sequence[str] = ()
    python: str = sys.executable
    process: subprocess.Popen[bytes] | None = None
    socket_path: Path | None = None
    board_directory: Path | None = None  # by default run_dir

    @property
    def log_path(self) -> Path:
        return self.run_dir / "server.log"

    @property
    def _fault(self) -> Path:
        return self.run_dir / "fault"

    def start(self) -> GuardedServer:
        """Start the server and return at once; see `wait_ready`."""
        self.run_dir.mkdir(exist_ok=True)
        self.socket_path = self.run_dir / "http.sock"
        environ: dict[str, str | None] = {
            **{name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "RUNTIME_DIRECTORY": str(self.run_dir),
            FAULT: str(self._fault),
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
                env={name: value for name, value in environ.items() if value is not None},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        return self

    # observe it

    @property
    def log(self) -> str:
        """The server's standard output and standard error so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @contextlib.contextmanager
    def board(self, pid: int | None = None) -> Iterator[Board]:
        """Map the scoreboard of the newest arbiter, or of the arbiter with a pid. Raises FileNotFoundError."""
        pattern = f"*.{pid}.board" if pid else "*.board"
        boards = [
            Board.open(path, others=True) for path in (self.board_directory or self.run_dir).glob(pattern)
        ]
        servers = [board for board in boards if board.words[Header.KIND] == ServerKind.WEB and is_live(board)]
        live = sorted(servers, key=lambda board: board.words[Header.STARTED_AT])
        try:
            if not live:
                raise FileNotFoundError("there is no scoreboard of a running server")
            yield live[-1]
        finally:
            for board in boards:
                board.close()

    def status(self, pid: int | None = None) -> dict[str, Any]:
        """Return the output of ``workerguard status --json``, without the findings."""
        with self.board(pid) as board:
            return snapshot(board)

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the events of the journal, or only those with one name."""
        with self.board() as board:
            return [event for event in read_events(board) if name in (None, event.get("event"))]

    def slot(self, number: int) -> dict[str, Any]:
        """Return the state of one slot."""
        return next(slot for slot in self.status()["slots"] if slot["slot"] == number)

    def pids(self) -> list[int]:
        """Return the pids of the workers, in the order of their slots."""
        return [slot["pid"] for slot in self.status()["slots"] if slot["pid"]]

    @property
    def arbiter(self) -> int:
        """The arbiter's pid."""
        assert self.process is not None
        return self.process.pid

    # wait for evidence

    def wait(
        self, what: str, condition: Callable[[dict[str, Any]], Any], timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """Poll the snapshot until it meets a condition, and return it. ``what`` describes the condition in the error."""
        status: dict[str, Any] = {}

        def is_met() -> bool:
            nonlocal status
            status = self.status()
            return bool(condition(status))

        self._poll(what, lambda: self._look(what, is_met), timeout)
        return status

    def wait_ready(self, count: int | None = None, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Wait until ``count`` workers are ready, by default all."""

        def all_ready(status: dict[str, Any]) -> bool:
            required = count if count is not None else status["target"]
            return bool(status["target"]) and status["ready"] >= required

        return self.wait(f"{count or 'all'} ready", all_ready, timeout)

    def wait_event(
        self, name: str, matching: Callable[[dict[str, Any]], Any] = bool, count: int = 1
    ) -> dict[str, Any]:
        """Wait for ``count`` matching events of a name, and return the last of them.

        The status, the metrics and the pages are then as new as that event.
        """
        matches: list[dict[str, Any]] = []

        def is_met() -> bool:
            with self.board() as board:
                matches[:] = [
                    event for event in read_events(board) if event.get("event") == name and matching(event)
                ]
                return len(matches) >= count and (_is_shown(board, matches[-1]) or self._has_ended)

        self._poll(f"event {name}", lambda: self._look(f"event {name}", is_met), TIMEOUT)
        return matches[-1]

    def wait_log(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until the log contains a text."""
        self._poll(f"{text!r} in the log", lambda: text in self.log, timeout)

    def wait_exit(self, timeout: float = TIMEOUT) -> int:
        """Wait until the server has ended, and return its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WaitError(f"the server did not end within {timeout:g} s\n{self.log}") from None

    def _poll(self, what: str, condition: Callable[[], Any], timeout: float) -> None:
        """Look again and again, at growing intervals, until a condition is met."""
        deadline = time.monotonic() + timeout
        pause, longest = PAUSES
        while not condition():
            if time.monotonic() > deadline:
                raise WaitError(f"{what}: not within {timeout:g} s\n{self._last_state()}{self.log}")
            time.sleep(pause)
            pause = min(longest, pause * 1.2)

    @property
    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _last_state(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return f"{self.status()}\n"
        return ""

    def _look(self, what: str, is_met: Callable[[], bool]) -> bool:
        """Return whether a condition of a running server is met; it is not while the board cannot be read."""
        assert self.process is not None
        with contextlib.suppress(OSError, ValueError, KeyError):
            if is_met():
                return True
        if self.process.poll() is not None:
            raise WaitError(f"{what}: the server ended with exit code {self.process.returncode}\n{self.log}")
        return False

    # act on it

    def break_loads(self, kind: str = "memory", *, times: int | None = None) -> None:
        """Make the next loads fail at their last step: ``times`` loads, by default all until `repair`.

        ``kind`` is memory (MemoryError), exception (ImproperlyConfigured), exit (exit code 1), kill (SIGKILL) or hang.
        Needs the load probe `fault_probe`, which the fixture has set.
        """
        if kind not in FAULTS:
            raise ValueError(f"{kind!r} is not one of {', '.join(FAULTS)}")
        temporary = self._fault.with_suffix(".new")
        temporary.write_text(f"{kind} {times if times is not None else -1}")
        temporary.rename(self._fault)

    def repair(self) -> None:
        """Let loads succeed again, after `break_loads`."""
        self._fault.unlink(missing_ok=True)

    def kill_worker(self, slot: int = 1) -> int:
        """Kill the worker of a slot with SIGKILL, as the kernel's OOM killer does, and return its pid.

        Waits while the slot has none. Raises WaitError and ProcessLookupError.
        """

        def pid_of(status: dict[str, Any]) -> int:
            return next((one["pid"] for one in status["slots"] if one["slot"] == slot and one["pid"]), 0)

        pid = pid_of(self.wait(f"a worker in slot {slot}", pid_of))
        os.kill(pid, signal.SIGKILL)
        return pid

    def get(self, path: str = "/", *, headers: dict[str, str] | None = None, timeout: float = 20.0) -> Reply:
        """Send one GET request over a new connection. Raises OSError or http.client.HTTPException."""
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
        """Send requests one after the other and count their statuses."""
        return Counter(self.get(path).status for _ in range(count))

    def signal(self, number: int) -> None:
        """Send a signal to the arbiter."""
        os.kill(self.arbiter, number)

    def stop(self) -> int:
        """Stop the server with SIGTERM and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def end(self) -> None:
        """End the server and all its processes, with stronger signals each time."""
        assert self.process is not None
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            if number == signal.SIGCONT:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_PATIENCE)
        for pid in self._remaining_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _remaining_processes(self) -> list[int]:
        """Return the pids of processes that have the server's log open: every child of the server inherits it."""
        pids = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if int(entry.name) != os.getpid() and (entry / "fd" / "2").readlink() == self.log_path:
                    pids.append(int(entry.name))
        return pids


FAULT = "GUARDED_SERVER_FAULT"  # the environment variable that names the file
FAULTS = ("memory", "exception", "exit", "kill", "hang")


def fault_probe() -> None:
    """Fail if `GuardedServer.break_loads` is in effect. A load probe; runs in the worker."""
    kind = _take_fault(os.environ.get(FAULT, ""))
    match kind:
        case "memory":
            raise MemoryError("as if there were no memory")
        case "exception":
            from django.core.exceptions import ImproperlyConfigured

            raise ImproperlyConfigured("as if a setting were missing")
        case "exit":
            os._exit(1)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)


def _take_fault(name: str) -> str:
    """Return the kind of the active fault, and count its use; "" if there is none."""
    try:
        with Path(name).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            kind, _, left = file.read().partition(" ")
            if left == "0":
                return ""
            if not left.startswith("-"):
                file.seek(0)
                file.truncate()
                file.write(f"{kind} {int(left) - 1}")
            return kind
    except (OSError, ValueError):
        return ""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _is_shown(board: Board, event: Mapping[str, Any]) -> bool:
    """Say whether the arbiter has published its state since it wrote an event."""
    published: float = board.words[Header.BEAT] / 1e9
    age: float = time.time() - event["at"]  # before the other clock, so that a pause makes the event no older
    is_whole = not board.words[Header.CHANGES] % 2  # the time is written first
    return is_whole and published >= time.monotonic() - age
