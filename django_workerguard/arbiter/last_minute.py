"""What the requests of the last minute say: how long they took and waited, and how busy the fleet was. Runs in the arbiter."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub

from django_workerguard.probe.process import cpu_ns
from django_workerguard.report.quantiles import quantile
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import Totals, bounds_of, totals
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.in_hand import ages_ns, workers_in_seats
from django_workerguard.scoreboard.layout import Seat

SAMPLES = 6  # one every ten seconds
SHARES = (0.5, 0.95, 0.99)
DURATIONS = (Header.P50, Header.P95, Header.P99)
QUEUE = (Header.QUEUE_P50, Header.QUEUE_P95, Header.QUEUE_P99)


@dataclass(frozen=True)
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

    def sample(self, ready: int, threads: int, now: int) -> None:
        """Take a sample, and write what has changed since that of a minute ago.

        ``ready``: workers. ``threads``: how many requests a worker can serve at once; 0: it has an event loop. ``now``:
        monotonic ns.
        """
        words = self._board.words
        latest = self._sample(ready, threads, now)
        self._samples.append(latest)
        earliest = self._samples[0]
        bounds = bounds_of(self._board)
        for places, counts, before in (
            (DURATIONS, latest.totals.durations, earliest.totals.durations),
            (QUEUE, latest.totals.waits, earliest.totals.waits),
        ):
            self._write_quantiles(places, list(map(sub, counts, before)), bounds)
        words[Header.SHED] = max(0, latest.totals.shed - earliest.totals.shed)
        capacity = latest.capacity - earliest.capacity
        share = (latest.busy - earliest.busy) / capacity if capacity else None
        words[Header.UTILISATION] = 0 if share is None else 1 + round(1000 * min(max(share, 0.0), 1.0))

    def _write_quantiles(self, places: Sequence[int], counts: list[int], bounds: list[float]) -> None:
        for place, share in zip(places, SHARES, strict=True):
            seconds = quantile(share, [max(0, count) for count in counts], bounds)
            self._board.words[place] = 0 if seconds is None else max(1, int(seconds * 1e6))

    def _sample(self, ready: int, threads: int, now: int) -> _Sample:
        counted, before = totals(self._board), self._samples[-1]
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
