"""The files in the run directory: restore the board and the control socket if they are removed. Runs in the arbiter.

A logout, tmpfiles or a clean-up may empty the run directory of a running server. The board's memory is shared with
the workers, so it stays as it is; a new file gets a copy of it at every tick.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from django_workerguard.arbiter.control_socket import ControlSocket
from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.places import Opened

LOOK_EVERY = 2.0  # seconds


class RunFiles:
    """The files of one server in its run directory.

    ``restored`` is called with a path that was made again, ``lost`` once with one that cannot be, and the error.
    """

    def __init__(
        self, opened: Opened, *, restored: Callable[[Path], None], lost: Callable[[Path, OSError], None]
    ) -> None:
        self._board = board = opened.board
        self._directory = opened.directory
        self._visible = board  # the board that readers find at the path: this one, or a copy
        self._restored = restored
        self._lost = lost
        self._reported: set[Path] = set()  # paths that are reported as lost
        self._looked = 0.0
        self._removed = False

    def restore_missing(self, control: ControlSocket | None, now: float) -> None:
        """Make again what is gone, and bring a copy up to date."""
        if self._board.path is None or self._removed:
            return
        if self._visible is not self._board:
            self._visible.copy_from(self._board)
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        path = self._board.path
        if not self._visible.is_at_its_path():
            self._restore(path, lambda: self._make_again(path))
        if control is not None and not control.is_there:
            self._restore(control.path, control.make_again)

    def _restore(self, path: Path, make: Callable[[], None]) -> None:
        try:
            make()
        except OSError as error:  # the server serves without it; the next look tries again
            if path not in self._reported:
                self._reported.add(path)
                self._lost(path, error)
        else:
            self._reported.discard(path)
            self._restored(path)

    def remove(self) -> None:
        """Remove the board's file, if it is this server's, and look after it no more."""
        self._removed = True
        path = self._board.path
        if path is not None and self._visible.is_at_its_path():
            path.unlink(missing_ok=True)

    def descriptors(self) -> Iterator[int]:
        """Yield the descriptor of a copy, which no child gets: a child that outlives the arbiter must not hold its lock."""
        if self._visible is not self._board:
            yield self._visible.fd

    def _make_again(self, path: Path) -> None:
        if self._directory is not None:
            self._directory.prepare(os.geteuid())
        pid = self._board.words[Header.PID]
        copy = Board.create(self._board.layout, path, pid=pid, start=start_time(pid))
        copy.copy_from(self._board)
        if self._visible is not self._board:
            self._visible.close()
        self._visible = copy
