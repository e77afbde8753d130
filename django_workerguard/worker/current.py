"""The worker that this code runs in. Runs in a worker.

The one piece of state that is per process by nature: the server's mixin sets it after the
fork, application code asks `current_worker`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django_workerguard.config.options import GuardOptions
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Vitals
from django_workerguard.scoreboard.layout import Seat, SeatState
from django_workerguard.scoreboard.snapshot import snapshot


@dataclass(frozen=True)
class CurrentWorker:
    """A worker under `serve_guarded`, seen from inside."""

    slot: int
    pid: int
    generation: int
    seat: int
    board: Board
    options: GuardOptions = field(default_factory=GuardOptions, repr=False)

    @property
    def loaded(self) -> bool:
        """Say whether the sentinel has passed this worker."""
        return self.board.words[self.board.layout.seat(self.seat) + Seat.STATE] in (
            SeatState.LOADED,
            SeatState.READY,
            SeatState.LEAVING,
        )

    @property
    def release(self) -> str:
        """Return the release that this worker loaded; "" where none is known."""
        return self.board.read_release(self.seat)

    def vitals(self) -> Vitals:
        """Return what the health URLs look at."""
        return self.board.vitals

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the whole server, as ``workerguard status --json`` shows it."""
        return snapshot(self.board)


class _Here:
    worker: CurrentWorker | None = None


def current_worker() -> CurrentWorker | None:
    """Return the guarded worker that this code runs in; None elsewhere (manage.py, other servers)."""
    return _Here.worker


def set_current_worker(worker: CurrentWorker | None) -> None:
    """Tell this process which worker it is. For the server's mixin, and for tests."""
    _Here.worker = worker
