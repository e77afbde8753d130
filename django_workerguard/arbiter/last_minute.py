"""What the requests of the last minute say: how long they took and waited, and how busy the fleet was. Runs in the arbiter."""

from __future__ import annotations

from collections import deque
from operator import add

from django_workerguard.probe.process import cpu_ns
from django_workerguard.report.quantiles import quantile
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import Totals, bounds_of, totals
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.in_hand import ages_ns, workers_in_seats
from django_workerguard.scoreboard.layout import BUCKETS, LARGEST_WORD, Seat, Slot
from django_workerguard.values import value_class

SAMPLES = 6  # one every ten seconds
QUANTILES = (0.5, 0.95, 0.99)  # in the order of their words


@value_class
class _Sample:
    """Sums since the server's start. ``busy`` and ``capacity`` are nanoseconds: of threads, or of an event loop's CPU."""

    totals: Totals
    busy: int
    capacity: int


class LastMinute:
    """Reads the counters of the whole fleet every ten seconds, and writes what has changed in the last minute."""

    def __init__(self, board: Board, now: int) -> None:
        """Begin at a time in monotonic nanoseconds."""
        self._board = board
        self._samples = deque([_Sample(Totals.none(), 0, 0)], maxlen=SAMPLES + 1)
        self._read_at = now
        self._cpu: dict[int, int] = {}  # the CPU time of each worker, by pid

    def sample(self, slots: int, ready: int, threads: int, now: int) -> None:
        """Take a sample, and write what has changed since that of a minute ago.

        ``slots``: the highest slot in use. ``ready``: workers. ``threads``: how many requests a worker can serve at once; 0: it has an event loop. ``now``:
        monotonic ns.
        """
        words = self._board.words
        latest = self._sample(slots, ready, threads, now)
        self._samples.append(latest)
        earliest = self._samples[0]
        bounds = bounds_of(self._board)
        everywhere = [0] * BUCKETS
        for slot, counts in latest.totals.durations.items():
            counted = _since(earliest.totals.durations.get(slot, [0] * BUCKETS), counts)
            everywhere = list(map(add, everywhere, counted))
            self._write_quantiles(self._board.layout.slot(slot) + Slot.P50, counted, bounds)
        self._write_quantiles(Header.P50, everywhere, bounds)
        self._write_quantiles(Header.QUEUE_P50, _since(earliest.totals.waits, latest.totals.waits), bounds)
        words[Header.SHED] = min(max(0, latest.totals.shed - earliest.totals.shed), LARGEST_WORD)
        capacity = latest.capacity - earliest.capacity
        share = (latest.busy - earliest.busy) / capacity if capacity else None
        words[Header.UTILISATION] = 0 if share is None else 1 + round(1000 * min(max(share, 0.0), 1.0))

    def _write_quantiles(self, at: int, counts: list[int], bounds: list[float]) -> None:
        for word, share in enumerate(QUANTILES, at):
            seconds = quantile(share, counts, bounds)
            self._board.words[word] = 0 if seconds is None else max(1, int(seconds * 1e6))

    def _sample(self, slots: int, ready: int, threads: int, now: int) -> _Sample:
        counted, before = totals(self._board, slots), self._samples[-1]
        if self._board.words[Header.KIND] != ServerKind.WEB:  # the children of a pool have no register
            return _Sample(counted, 0, 0)
        passed, self._read_at = now - self._read_at, now
        capacity = before.capacity + passed * ready * max(threads, 1)
        if threads:
            in_hand = sum(ages_ns(self._board, seat, now) for seat, _ in workers_in_seats(self._board))
            return _Sample(counted, counted.nanoseconds + in_hand, capacity)
        return _Sample(counted, before.busy + self._cpu_since(), capacity)

    def _cpu_since(self) -> int:
        """Return the CPU time that the workers have used since the last sample; a new one's load does not count."""
        words, layout = self._board.words, self._board.layout
        pids = [words[layout.seat(seat) + Seat.PID] for seat, _ in workers_in_seats(self._board)]
        before, self._cpu = self._cpu, {pid: cpu_ns(pid) for pid in pids}
        return sum(max(0, used - before.get(pid, used)) for pid, used in self._cpu.items())


def _since(before: list[int], now: list[int]) -> list[int]:
    """Return what has been counted meanwhile; a worker may have written any value into its own."""
    return [max(0, one - other) for one, other in zip(now, before, strict=True)]
