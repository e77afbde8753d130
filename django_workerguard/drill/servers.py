"""The servers under the drill: the guarded one, and plain gunicorn beside it. Runs in the drill's process.

Both have one face, so that the acts are the same: which workers are ready, reload, recycle.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from django_workerguard.scoreboard.board import Board, BoardError
from django_workerguard.scoreboard.control_client import ask
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import is_live
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.after_fork import die_with_parent

END_PATIENCE = 5.0  # seconds that the server gets for each signal at the end
LAST_LINES = 30


class NoCounterpartError(Exception):
    """The server cannot do what an act needs."""


@dataclass
class Server(ABC):
    """A server on a private socket, whose processes end with the drill."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    project: str
    directory: Path
    workers: int = 0  # plain gunicorn's
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket(self) -> Path:
        return self.directory / "http.sock"

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    def start(self) -> None:
        """Start the server and return at once. Call it from the main thread: the server ends with the thread."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=dict(self.environ),
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the drill, which ends the server
                preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - no other thread runs yet
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def last_words(self) -> str:
        """Return the end of the server's log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def end(self) -> None:
        """End the server and all its processes, with stronger signals each time."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_PATIENCE)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the session that it has started
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None

    @abstractmethod
    def ready_pids(self) -> set[int]:
        """Return the pids of the workers that are ready."""

    @property
    def target(self) -> int:
        """The number of workers that there have to be."""
        return self.workers

    def ready_count(self) -> int:
        """Return the number of ready workers, at little cost."""
        return len(self.ready_pids())

    def reload(self) -> None:
        """Ask for a reload."""
        os.kill(self.pid, signal.SIGHUP)

    def recycle(self) -> int:
        """Ask for the replacement of one worker, and return its pid. Raises NoCounterpartError."""
        raise NoCounterpartError(f"{self.name} has no command that replaces one worker")

    def status(self) -> dict[str, Any]:
        """Return the server's status, {} if it has none."""
        return {}

    def events(self) -> list[dict[str, Any]]:
        """Return the server's journal, [] if it has none."""
        return []


class Guarded(Server):
    """The guarded server."""

    _board: Board | None = None

    def end(self) -> None:
        super().end()
        if self._board is not None:
            self._board.close()
            self._board = None

    def ready_pids(self) -> set[int]:
        return {slot["pid"] for slot in self.status().get("slots", ()) if slot["state"] == "ready"}

    @property
    def target(self) -> int:
        board = self._open()
        return board.words[Header.TARGET] if board is not None else 0

    def ready_count(self) -> int:
        board = self._open()
        return board.words[Header.READY] if board is not None and not self.has_ended else 0

    def reload(self) -> None:
        self._ask("reload")

    def recycle(self) -> int:
        slot = next(slot for slot in self.status()["slots"] if slot["state"] == "ready")
        self._ask("recycle", slot=slot["slot"])
        return int(slot["pid"])

    def status(self) -> dict[str, Any]:
        board = self._open()
        return snapshot(board) if board is not None else {}

    def events(self) -> list[dict[str, Any]]:
        board = self._open()
        return list(read_events(board)) if board is not None else []

    def _ask(self, do: str, **arguments: Any) -> None:
        board = self._open()
        assert board is not None
        assert board.path is not None
        answer = ask(board.path.with_suffix(".sock"), do, **arguments)
        if not answer.get("accepted"):
            raise NoCounterpartError(f"the server refused: {answer.get('reason')}")

    def _open(self) -> Board | None:
        if self._board is None:
            for path in (self.directory / "run").glob("*.board"):
                with contextlib.suppress(OSError, BoardError):
                    board = Board.open(path, others=True)
                    if is_live(board):
                        self._board = board
                    else:  # of a server that has died
                        board.close()
        return self._board


class Plain(Server):
    """Plain gunicorn. The module that it loads marks each process that has loaded, because gunicorn does not say it."""

    def ready_pids(self) -> set[int]:
        marks = self.directory.joinpath("faults").glob("loaded.*")
        pids = {int(path.suffix[1:]) for path in marks}
        return set() if self.has_ended else {pid for pid in pids if self._is_worker(pid)}

    def _is_worker(self, pid: int) -> bool:
        """Return whether a process is a child of the server and still runs."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[1]) == self.pid and fields[0] not in "ZX"
        return False
