"""The seats as the arbiter keeps them: the process in each, its state, and the arbiter's orders. Runs in the arbiter.

Pids, indices and roles come from this table only, never from the shared memory.
"""

from __future__ import annotations

from typing import Any

from django_workerguard.policy.message import Reading
from django_workerguard.policy.recycle import CANCEL_GRACE
from django_workerguard.policy.view import Policy, State
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.probe.memory import memory_of
from django_workerguard.probe.process import resident_bytes, start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import bucket_counts
from django_workerguard.scoreboard.in_hand import older_than, overdue
from django_workerguard.scoreboard.layout import (
    DURATIONS_WORDS,
    LARGEST_WORD,
    Orders,
    Seat,
    SeatKind,
    SeatState,
)

STATES: dict[int, State] = {
    SeatState.LOADING: State.LOADING,
    SeatState.LOADED: State.LOADED,
    SeatState.READY: State.READY,
    SeatState.FAILED: State.FAILED,
    SeatState.UNLOADED: State.UNLOADED,
    SeatState.LEAVING: State.RETIRING,
    SeatState.UNFIT: State.UNFIT,
}


LARGEST_PEAK = 1 << 40  # bytes


class Seats:
    """The seats of one board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.pids: dict[int, int] = {}  # by seat
        self._orders: dict[int, Orders] = {}

    def forked(self, index: int, mold: int) -> None:
        """Note that the process in a seat was forked from the mold in another."""
        self._write(index, Seat.MOLD, self.pids[mold])
        self._write(mold, Seat.FORKS, min(self.word(mold, Seat.FORKS) + 1, LARGEST_WORD))

    def take(self, kind: SeatKind, *, slot: int, generation: int, orders: Orders) -> int | None:
        """Reserve and reset a free seat, and return its index; None where all are taken."""
        for index in range(self._board.layout.seats):
            if index not in self.pids:
                break
        else:
            return None
        self._board.clear_seat(index)
        self._write(index, Seat.KIND, kind)
        self._write(index, Seat.SLOT, slot)
        self._write(index, Seat.GENERATION, generation)
        self._give(index, orders)
        self._write(index, Seat.SPAWNED, monotonic_ns())
        self.pids[index] = 0
        return index

    def adopt(self, index: int, pid: int) -> None:
        """Register the process in a seat: from now on it may act on its orders."""
        self.pids[index] = pid
        self._write(index, Seat.START, start_time(pid))
        self._write(index, Seat.PID, pid)

    def convert(self, index: int, slot: int) -> None:
        """Make the mold in a seat the worker of a slot: it loads, as far as the fleet is concerned."""
        self._write(index, Seat.KIND, SeatKind.WORKER)
        self._write(index, Seat.SLOT, slot)

    def free(self, index: int) -> None:
        """Give a seat back."""
        self.pids.pop(index, None)
        self._write(index, Seat.PID, 0)
        self._write(index, Seat.KIND, SeatKind.FREE)

    def order(self, index: int, order: Orders, *, on: bool = True) -> None:
        orders = self._orders[index]
        self._give(index, orders | order if on else orders & ~order)

    def _give(self, index: int, orders: Orders) -> None:
        self._orders[index] = orders
        self._write(index, Seat.ORDERS, orders)

    def readings(self, policy: Policy) -> tuple[Reading, ...]:
        """Read what every process says of itself."""
        return tuple(self._reading(index, policy) for index, pid in self.pids.items() if pid)

    def _reading(self, index: int, policy: Policy) -> Reading:
        words, base = self._board.words, self._board.layout.seat(index)
        in_flight = words[base + Seat.IN_FLIGHT]
        now = monotonic_ns()
        grace = int(CANCEL_GRACE * 1e9) if policy.request_timeout_action == "cancel" else 0
        return Reading(
            seat=index,
            state=STATES.get(words[base + Seat.STATE]),
            beat=words[base + Seat.BEAT],
            on_duty=bool(words[base + Seat.DUTY]),
            requests=words[base + Seat.REQUESTS],
            errors=words[base + Seat.ERRORS_5XX],
            memory_errors=words[base + Seat.MEMORY_ERRORS],
            in_flight=in_flight,
            waiting=words[base + Seat.WAITING],
            overdue=overdue(self._board, index, policy.request_timeout, now - grace) if in_flight else (),
            stalled=0.0 if policy.threads else self._stalled(base, now),
            long=older_than(self._board, index, policy.timeout, now) if in_flight and policy.threads else 0,
        )

    def _stalled(self, base: int, now: int) -> float:
        words = self._board.words
        since = [
            word for word in (words[base + Seat.LOOP_EXECUTOR], words[base + Seat.SHARED_THREAD]) if word
        ]
        return max(0, now - min(since)) / 1e9 if since else 0.0

    def durations(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Return by seat how many requests took how long: the counts of each bucket."""
        words, layout = self._board.words, self._board.layout
        return tuple(
            (index, tuple(bucket_counts(words[at : at + DURATIONS_WORDS].tolist())))
            for index, pid in self.pids.items()
            if pid
            for at in [layout.histograms(index)]
        )

    def word(self, index: int, word: Seat) -> int:
        return self._board.words[self._board.layout.seat(index) + word]

    def report(self, index: int) -> dict[str, Any]:
        return self._board.read_seat_report(index)

    def measure(self) -> tuple[tuple[int, int], ...]:
        """Write the memory of every process into its seat, and return it in bytes by seat.

        It is the resident memory. Of a worker that a mold has forked it is only its private memory: it shares the rest
        with the mold, and replacing it would not free that.
        """
        measured = tuple((index, self._memory(index, pid)) for index, pid in self.pids.items() if pid)
        for index, resident in measured:
            self._write(index, Seat.RSS, resident)
        return measured

    def peak(self, index: int) -> int:
        """Return the most memory in bytes that the load of a process has needed, beyond what it shares; 0 if it is gone.

        It is what the process has now, and by how much a step of the load had more than was kept since its beginning.
        """
        steps = [] if self.word(index, Seat.MOLD) else self.report(index).get("steps", [])
        above = kept = 0
        for step in reversed(steps):
            kept += step["retained_bytes"]
            above = max(above, step["peak_bytes"] - kept)
        pid = self.pids.get(index, 0)
        now = memory_of(pid).private or resident_bytes(pid)
        # a defective worker may have written any number
        return now + min(int(above), LARGEST_PEAK) if now else 0

    def _memory(self, index: int, pid: int) -> int:
        forked = self.word(index, Seat.MOLD)
        return (memory_of(pid).private if forked else 0) or resident_bytes(pid)

    def _write(self, index: int, word: Seat, value: int) -> None:
        self._board.words[self._board.layout.seat(index) + word] = value
