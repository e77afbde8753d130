"""Cancel requests of an event loop that run too long (`request-timeout-action=cancel`). Runs in the worker.

One look at the register every half a second serves all requests, so a request costs nothing more. If the loop is blocked,
or a view does not let itself be cancelled, the arbiter replaces the worker `policy.recycle.CANCEL_GRACE` seconds later.
"""

from __future__ import annotations

from importlib import import_module

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.in_hand import late_entries
from django_workerguard.scoreboard.layout import Entry
from django_workerguard.worker.register import token_of

LOOK_EVERY = 0.5  # seconds


class Canceller:
    """Cancels the tasks of overdue requests, and remembers for which requests it has done so."""

    def __init__(self, board: Board, seat: int, seconds: float) -> None:
        """``seconds``: the limit of a request that has none of its own; 0: none."""
        self._board = board
        self._seat = seat
        self._seconds = seconds
        self._cancelled: set[int] = set()  # tokens
        self._is_started = False

    def start(self) -> None:
        """Look from now on. Call it in the event loop."""
        if not self._is_started:
            self._is_started = True
            # imported here, because the arbiter must not import it before a gevent worker has patched it
            self._asyncio = import_module("asyncio")
            self._look()

    def _look(self) -> None:
        loop = self._asyncio.get_running_loop()
        loop.call_later(LOOK_EVERY, self._look)
        late = late_entries(self._board, self._seat, self._seconds, monotonic_ns())
        tokens = {token_of(started, number): number for number, started in late}
        self._cancelled &= tokens.keys()  # the others are over
        new = tokens.keys() - self._cancelled
        if not new:
            return
        tasks = {id(task): task for task in self._asyncio.all_tasks(loop)}
        for token in new:
            entry = self._board.layout.entry(self._seat, tokens[token])
            task = tasks.get(self._board.words[entry + Entry.TASK])
            if task is not None:
                self._cancelled.add(token)
                task.cancel()

    def has_cancelled(self, token: int) -> bool:
        return token in self._cancelled
