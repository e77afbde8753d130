"""The worker that this code runs in. Runs in the worker.

This state is global because it describes the process: the server's mixin sets it after the fork, and application code
reads it with `current_worker`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django_workerguard.config.options import GuardOptions
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Vitals
from django_workerguard.scoreboard.layout import Seat, SeatState
from django_workerguard.scoreboard.snapshot import snapshot


@dataclass(frozen=True)
class CurrentWorker:
    """The worker under `serve_guarded` that runs the calling code."""

    slot: int
    pid: int
    generation: int
    seat: int
    board: Board
    options: GuardOptions = field(default_factory=GuardOptions, repr=False)

    @property
    def loaded(self) -> bool:
        """Whether the sentinel has verified that this worker is loaded."""
        return self.board.words[self.board.layout.seat(self.seat) + Seat.STATE] in (
            SeatState.LOADED,
            SeatState.READY,
            SeatState.LEAVING,
        )

    @property
    def release(self) -> str:
        """The release that this worker has loaded; "" if none is known."""
        return self.board.read_release(self.seat)

    def vitals(self) -> Vitals:
        """Return the numbers from which the health URLs answer."""
        return self.board.vitals

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the whole server, as ``workerguard status --json`` shows it."""
        return snapshot(self.board)


class _Process:
    worker: CurrentWorker | None = None
    board_source: Callable[[], Board | None] | None = None


def current_worker() -> CurrentWorker | None:
    """Return the guarded worker that this code runs in; None in other processes (manage.py, other servers)."""
    return _Process.worker


def set_current_worker(worker: CurrentWorker | None) -> None:
    """Record which worker this process is. For the server's worker classes, and for tests.

    A worker that was forked from a mold is another one than its mold. Code that has kept the mold's at its import must see
    the new one, so the object stays, and its fields change.
    """
    if worker is not None and _Process.worker is not None:
        _Process.worker.__dict__.update(worker.__dict__)
    else:
        _Process.worker = worker


def current_board() -> Board | None:
    """Return the scoreboard of the server that this process belongs to: `serve_guarded`, or a guarded uWSGI.

    None in other processes, and under uWSGI until a worker has made the board.
    """
    if _Process.worker is not None:
        return _Process.worker.board
    return _Process.board_source() if _Process.board_source is not None else None


def set_board_source(source: Callable[[], Board | None] | None) -> None:
    """Set where `current_board` gets the board in a process that is no worker of `serve_guarded`."""
    _Process.board_source = source
