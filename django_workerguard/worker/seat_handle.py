"""A process's access to its seat and to the arbiter. Made in the arbiter before the fork, used in the child."""

from __future__ import annotations

import contextlib
import os

from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Orders, Seat, SeatState, Slot
from django_workerguard.values import value_class


@value_class(kw_only=True)
class SeatHandle:
    """One seat of the scoreboard, and the pipe that wakes the arbiter."""

    board: Board
    seat: int
    slot: int
    generation: int
    wake_fd: int
    dump_fd: int  # descriptor for faulthandler's stacks; -1: none
    request: LoadRequest
    options: GuardOptions

    @property
    def base(self) -> int:
        return self.board.layout.seat(self.seat)

    def set_state(self, state: SeatState) -> None:
        """Write the state of this process into its seat, and wake the arbiter."""
        self.board.words[self.base + Seat.STATE] = state
        self.wake()

    @property
    def state(self) -> int:
        return self.board.words[self.base + Seat.STATE]

    def has_order(self, order: Orders) -> bool:
        """Return whether the arbiter has given this order to this process."""
        words = self.board.words
        return words[self.base + Seat.PID] == os.getpid() and bool(words[self.base + Seat.ORDERS] & order)

    def stamp(self, word: Seat) -> None:
        """Write the current time into a word of the seat."""
        self.board.words[self.base + word] = monotonic_ns()

    def wake(self) -> None:
        """Wake the arbiter: write a byte into the pipe that it polls."""
        with contextlib.suppress(OSError):
            os.write(self.wake_fd, b".")

    @property
    def next_try_in(self) -> float:
        """The seconds until any slot tries to load again; 0 if no try is due."""
        words = self.board.words
        layout = self.board.layout
        due = [words[layout.slot(n) + Slot.NEXT_TRY] for n in range(1, words[Header.TARGET] + 1)]
        return min(((at - monotonic_ns()) / 1e9 for at in due if at), default=0.0)


class SeatBeat:
    """A worker's heartbeat in its seat. It has the interface of gunicorn's WorkerTmp, but makes no file.

    gunicorn makes one for every worker before the worker has a seat; before `take_seat`, `notify` does nothing.
    """

    def __init__(self, cfg: object) -> None:
        self._handle: SeatHandle | None = None

    def take_seat(self, handle: SeatHandle) -> None:
        self._handle = handle
        self._words = handle.board.words
        self._beat = handle.base + Seat.BEAT

    def notify(self) -> None:
        if self._handle is not None:
            self._words[self._beat] = monotonic_ns()

    def last_update(self) -> float:
        """Return the time of the last heartbeat, in seconds of the monotonic clock."""
        return self._handle.board.words[self._handle.base + Seat.BEAT] / 1e9 if self._handle else 0.0

    def fileno(self) -> int:
        return self._handle.board.fd if self._handle else -1

    def close(self) -> None:
        """Do nothing: the scoreboard outlives the worker."""
