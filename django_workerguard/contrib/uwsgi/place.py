"""The board of a server under uWSGI, and which worker keeps it. Runs in uWSGI's workers.

One loaded worker keeps the board and acts. It holds the lock of the board's file, which the kernel releases when the
process ends, however it ends. A keeper that hangs holds its lock, but it stops writing the beat: then another worker
puts a copy of the board in its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from django_workerguard.errors import WorkerguardError
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.board import Board, BoardError
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import layout_for
from django_workerguard.scoreboard.places import WORLD_WRITABLE, RunDirectory, open_board, remove_stale_files

SILENCE = 10_000_000_000  # ns without a beat after which another worker takes over

logger = logging.getLogger("django_workerguard")


class Place:
    """The board of the server with this name and this master, in the first run directory that can be used."""

    def __init__(self, name: str, run_dir: str | None, master: int) -> None:
        self._name = name
        self._run_dir = run_dir
        self._master = master
        self._owner = os.getpid()
        self._keeps = False
        self.board: Board | None = None  # also while another worker keeps it

    def take(self, workers: int) -> Board | None:
        """Return the board if this process keeps it now, else None. Raises OSError, WorkerguardError.

        ``workers``: the number of uWSGI's workers, for which the board must have room.
        """
        board = self.board
        if board is not None and board.is_at_its_path() and board.layout.slots >= workers:
            self._keeps = self._keeps or _lock(board)
            if self._keeps and board.is_at_its_path():  # it may have been removed before it was locked
                return board
            if not self._keeps and not _is_silent(board):
                return None
        with self._alone() as directory:
            return self._take_again(directory, workers) if directory is not None else None

    def release(self) -> None:
        """Let another process keep the board."""
        if self.board is not None and self._keeps:
            self._keeps = False
            self.board.unlock()

    def leave_to_parent(self) -> None:
        """Give up the lock in a process that this worker has forked."""
        if self.board is not None and os.getpid() != self._owner:
            self._keeps = False
            self.board.drop_lock()

    def _take_again(self, directory: Path, workers: int) -> Board | None:
        """Take the board's file, which may be new to this process. Only one process is here at a time."""
        path = directory / f"{self._name}.{self._master}.board"
        board = self._existing(path, workers)
        if board is not None and not _lock(board):
            if not _is_silent(board):
                self._use(board, keeps=False)
                return None
            board = self._copy_of(board, path)
        if board is None:
            remove_stale_files(directory)
            opened = open_board(
                layout_for(workers, surge=0),
                self._name,
                str(directory),
                environ=os.environ,
                uid=os.geteuid(),
                pid=self._master,
            )
            board = opened.board
        self._use(board, keeps=True)
        return board

    def _existing(self, path: Path, workers: int) -> Board | None:
        """Return the board of this server; a file that cannot be used is removed."""
        try:
            board = Board.adopt(path)
        except FileNotFoundError:
            return None
        except BoardError as error:
            logger.warning("%s; it is replaced", error)
            path.unlink(missing_ok=True)
            return None
        words = board.words
        ours = (words[Header.PID], words[Header.START]) == (self._master, start_time(self._master))
        if ours and board.layout.slots >= workers:
            return board
        path.unlink(missing_ok=True)  # of an earlier process with this pid, or of fewer workers
        os.close(board.fd)
        return None

    def _copy_of(self, board: Board, path: Path) -> Board:
        """Put a copy in the place of a board whose keeper is silent."""
        remove_stale_files(path.parent)
        copied = Board.create(board.layout, path.with_suffix(".taken"), pid=self._master)
        copied.copy_from(board)
        copied.words[Header.BEAT] = monotonic_ns()
        os.close(board.fd)
        (copied.path or path).rename(path)
        copied.path = path
        return copied

    def _use(self, board: Board, *, keeps: bool) -> None:
        if self.board is not None and self.board is not board:
            os.close(self.board.fd)  # not the mapping: a request may be reading it
        self.board, self._keeps = board, keeps

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Path | None]:
        """Lock the run directory while a board is looked for or made; yield None if another process holds it."""
        directory = self._directory()
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield directory
        finally:
            os.close(fd)

    def _directory(self) -> Path:
        problems = []
        for place, source in discovery.run_directories(self._run_dir, environ=os.environ, uid=os.geteuid()):
            directory = RunDirectory(path=Path(place), parent_is_world_writable=source in WORLD_WRITABLE)
            try:
                directory.prepare(os.geteuid())
            except OSError as error:
                problems.append(f"{place}: {error.strerror}")
            else:
                return directory.path
        raise WorkerguardError(f"no directory can hold the scoreboard ({'; '.join(problems)})")


def _lock(board: Board) -> bool:
    """Take the lock if it is free; then the board is no longer silent."""
    locked = board.try_lock()
    if locked:
        board.words[Header.BEAT] = monotonic_ns()
    return locked


def _is_silent(board: Board) -> bool:
    return monotonic_ns() - board.words[Header.BEAT] > SILENCE
