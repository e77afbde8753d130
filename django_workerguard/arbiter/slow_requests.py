"""Write the stack of each request that has run for `slow-request` seconds, once. Runs in the arbiter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django_workerguard.arbiter.stack_requests import Asked, StackRequests
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.stacks import read_stacks, shortened, stacks_of
from django_workerguard.scoreboard.in_hand import NO_LIMIT, InHand, older_than, requests_in_hand
from django_workerguard.scoreboard.layout import Seat
from django_workerguard.scoreboard.stack_format import AwaitedDump, Step
from django_workerguard.values import value_class

EVERY = 1.0  # seconds between two stacks of the whole server
SHORT_STACK = 150  # characters of a stack in an event; the log has the whole


@value_class
class _Pending:
    """A worker that was asked for its stacks because of a request."""

    request: InHand
    pid: int
    asked: Asked | None  # None: it could not be asked
    awaited: AwaitedDump


class SlowRequests:
    """Watches the registers of the workers."""

    def __init__(
        self, tracker: Tracker, stack_requests: StackRequests, *, clock: Callable[[], float]
    ) -> None:
        self._tracker = tracker
        self._stack_requests = stack_requests
        self._clock = clock
        self._seen: set[tuple[int, int]] = set()  # seat and start of the requests that were found
        self._left_out = 0
        self._last = -EVERY
        self._pending: _Pending | None = None

    def look(self, limit: float) -> None:
        """Find the requests that have run for ``limit`` seconds; 0: none."""
        now = self._clock()
        if self._pending is not None:
            self._write(self._pending, now)
        if not limit:
            self._seen.clear()
            return
        slow = {(one.seat, one.started): one for one in self._slow(limit)}
        found = [request for key, request in slow.items() if key not in self._seen]
        self._seen = set(slow)
        if not found:
            return
        oldest = min(found, key=lambda request: request.started)
        if self._pending is not None or now - self._last < EVERY:
            self._left_out += len(found)
            return
        self._left_out += len(found) - 1
        self._last = now
        asked = self._stack_requests.ask(oldest.seat)
        self._pending = _Pending(
            oldest,
            self._tracker.fleet.workers[oldest.seat].pid,
            asked if isinstance(asked, Asked) else None,
            AwaitedDump(now),
        )

    def _slow(self, limit: float) -> list[InHand]:
        now = monotonic_ns()
        return [
            request
            for worker in self._tracker.fleet.workers.values()
            if worker.in_flight and older_than(self._tracker.board, worker.seat, limit, now)
            for request in requests_in_hand(self._tracker.board, worker.seat)
            if request.age(now) >= limit and request.limit != NO_LIMIT
        ]

    def _is_in_hand(self, request: InHand) -> bool:
        in_hand = requests_in_hand(self._tracker.board, request.seat)
        return any(request.started == one.started for one in in_hand)

    def _write(self, pending: _Pending, now: float) -> None:
        worker, dump = self._tracker.fleet.process(pending.request.seat), ""
        if worker is None or worker.pid != pending.pid:  # it has ended, and its file is closed
            self._pending = None
            return
        if pending.asked is not None:
            dump = pending.asked.read()
            awaited, step = pending.awaited.seen(dump, now)
            if step is Step.WAIT or (step is Step.FORCE and self._is_in_hand(pending.request)):
                if step is Step.FORCE:
                    self._stack_requests.ask(pending.request.seat, forced=True)
                self._pending = replace(pending, awaited=awaited)
                return
        self._pending = None
        board = self._tracker.board
        main = board.words[board.layout.seat(pending.request.seat) + Seat.MAIN_THREAD]
        stacks = stacks_of(pending.request, read_stacks(dump, main=main))
        frames = [frame for stack in stacks for frame in stack.frames]
        self._tracker.event_log.slow_request(
            worker,
            pending.request,
            frames=frames,
            short=shortened(stacks, SHORT_STACK),
            left_out=self._left_out,
        )
        self._left_out = 0
