"""Keep a board and its control socket where readers look for them. Runs in the arbiter.

A logout, tmpfiles or a clean-up may empty the run directory of a server that lives. Its memory is shared
with the workers, so that it stays as it is; a new file gets a copy of it at every tick.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from django_workerguard.fleet.control import ControlSocket
from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.places import Opened, RunDirectory

LOOK_EVERY = 2.0  # seconds


class Place:
    """The files of one server in its run directory.

    ``restored`` is called with a path that was made again, ``lost`` with a reason why one cannot be, once for each.
    """

    def __init__(
        self, opened: Opened, *, restored: Callable[[Path], None], lost: Callable[[Path, str], None]
    ) -> None:
        self._board = board = opened.board
        self._directory = opened.directory
        self._shown = board  # whose file has the board's name
        self._restored = restored
        self._lost = lost
        self._wrong = ""
        self._looked = 0.0

    def look(self, control: ControlSocket | None, now: float) -> None:
        """Make again what is gone, and bring a copy up to date."""
        if self._board.path is None or self._directory is None:
            return
        if self._shown is not self._board:
            self._shown.copy_from(self._board)
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        try:
            self._look(self._board.path, self._directory, control)
        except OSError as error:
            wrong = error.strerror or str(error)
            if wrong != self._wrong:
                self._lost(self._directory.path, wrong)
            self._wrong = wrong
        else:
            self._wrong = ""

    def _look(self, path: Path, directory: RunDirectory, control: ControlSocket | None) -> None:
        if not self._is_there(path):
            directory.prepare(os.geteuid())
            self._make_again(path)
        if control is not None and not control.is_there:
            control.make_again()
            self._restored(control.path)

    def remove(self) -> None:
        """Remove the board's file, if it is this server's."""
        path = self._board.path
        if path is not None and self._is_there(path):
            path.unlink(missing_ok=True)

    def _is_there(self, path: Path) -> bool:
        ours = os.fstat(self._shown.fd)
        try:
            there = os.lstat(path)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _make_again(self, path: Path) -> None:
        pid = self._board.words[Header.PID]
        copy = Board.create(self._board.layout, path, pid=pid, start=start_time(pid))
        copy.copy_from(self._board)
        if self._shown is not self._board:
            self._shown.close()
        self._shown = copy
        self._restored(path)
