"""Count requests in the worker's seat, with gunicorn's request hooks. Runs in the worker."""

from __future__ import annotations

import sys
import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from gunicorn.config import PostRequest, PreRequest

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import BUCKETS, DURATIONS_WORDS, HISTOGRAM_WORDS, Seat
from django_workerguard.scoreboard.snapshot import is_suspect
from django_workerguard.worker.register import ENTRY_BITS, NO_REQUEST, Register

Hook = Callable[..., Any]
# where the histogram of a status is, by its first digit; whatever is no status counts as 5xx
HISTOGRAMS = tuple(number * HISTOGRAM_WORDS for number in (4, 0, 1, 2, 3, 4, 4, 4, 4, 4))


class RequestCount:
    """The words of the seat that count requests.

    Threads count without a lock: with the global interpreter lock, a thread is interrupted only at a backward jump or at
    a call, and there is neither between the read and the write of a word. `LockedRequestCount` is for interpreters
    without that lock. (A lock around every request cost the threaded worker class more than everything else here.)
    """

    def __init__(self, board: Board, seat: int) -> None:
        self._words = words = board.words
        base = board.layout.seat(seat)
        bounds = board.layout.bounds
        self._bounds = [bound for bound in words[bounds : bounds + BUCKETS - 1].tolist() if bound]
        self._durations = board.layout.histograms(seat)
        self._times_in_queue = self._durations + DURATIONS_WORDS
        self._requests = base + Seat.REQUESTS
        self._errors = base + Seat.ERRORS_5XX
        self._in_flight = base + Seat.IN_FLIGHT
        self._streak = base + Seat.STREAK
        self._last_5xx = base + Seat.LAST_5XX
        self._memory_errors = base + Seat.MEMORY_ERRORS
        self._shed = base + Seat.SHED
        self._gone = base + Seat.GONE

    def started(self) -> None:
        self._words[self._in_flight] += 1

    def ended(self, status: int, started: int) -> None:
        """Count a request that has ended. ``started``: monotonic ns; 0: its duration does not count."""
        words = self._words
        words[self._requests] += 1
        if started:
            duration = monotonic_ns() - started
            histogram = self._durations + HISTOGRAMS[status // 100 % 10]
            words[histogram + bisect_left(self._bounds, duration)] += 1
            words[histogram + BUCKETS] += duration
        if words[self._in_flight]:
            words[self._in_flight] -= 1
        if status >= 500:
            words[self._errors] += 1
            words[self._streak] += 1
            words[self._last_5xx] = monotonic_ns()
        elif words[self._streak]:
            words[self._streak] = 0

    def discard(self) -> None:
        """Stop counting a request that `started` has counted."""
        if self._words[self._in_flight]:
            self._words[self._in_flight] -= 1

    def memory_error(self) -> None:
        """Count a request that ended in MemoryError."""
        self._words[self._memory_errors] += 1

    def waited(self, nanoseconds: int) -> None:
        """Count how long a request has waited in the queue."""
        words, histogram = self._words, self._times_in_queue
        words[histogram + bisect_left(self._bounds, nanoseconds)] += 1
        words[histogram + BUCKETS] += nanoseconds

    def shed(self) -> None:
        """Count a request that is answered 503 because it has waited too long."""
        self._words[self._shed] += 1

    def gone(self) -> None:
        """Count a request whose connection was reset while it waited."""
        self._words[self._gone] += 1

    @property
    def is_suspect(self) -> bool:
        """Whether the last requests all ended in 5xx, and recently."""
        streak = self._words[self._streak]
        return bool(streak) and is_suspect(streak, monotonic_ns() - self._words[self._last_5xx])


class LockedRequestCount(RequestCount):
    """A `RequestCount` for interpreters without a global interpreter lock."""

    def __init__(self, board: Board, seat: int) -> None:
        super().__init__(board, seat)
        self._lock = threading.Lock()

    def started(self) -> None:
        with self._lock:
            super().started()

    def ended(self, status: int, started: int) -> None:
        with self._lock:
            super().ended(status, started)

    def discard(self) -> None:
        with self._lock:
            super().discard()

    def memory_error(self) -> None:
        with self._lock:
            super().memory_error()

    def waited(self, nanoseconds: int) -> None:
        with self._lock:
            super().waited(nanoseconds)

    def shed(self) -> None:
        with self._lock:
            super().shed()

    def gone(self) -> None:
        with self._lock:
            super().gone()


def request_count(board: Board, seat: int) -> RequestCount:
    """Return the right `RequestCount` for this interpreter."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return (RequestCount if has_gil else LockedRequestCount)(board, seat)


# in the environ of a request
ANSWERED = "workerguard.answered"  # by the guard, not by the application
ENTRY = "workerguard.entry"  # its token in the register


def chain_hooks(
    worker: Any, count: RequestCount, register: Register, *, answered: Callable[[Any], None]
) -> None:
    """Wrap the user's hooks pre_request and post_request to count requests, and to take them out of the register.

    Requests that the guard answers are not counted. ``answered`` is called after every request.
    """
    ends_by_exit = any(cls.__name__ == "ThreadWorker" for cls in type(worker).__mro__)
    before = worker.cfg.settings["pre_request"].get()
    after = worker.cfg.settings["post_request"].get()
    quiet = before is PreRequest.default and not worker.log.error_log.isEnabledFor(10)
    worker.cfg.settings["pre_request"].set(_before(count, None if quiet else before))
    worker.cfg.settings["post_request"].set(
        _after(
            count,
            register,
            None if after is PostRequest.default else after,
            answered,
            lost_with=SystemExit if ends_by_exit else (),
        )
    )


def _before(count: RequestCount, user: Hook | None) -> Hook:
    started = count.started

    def pre_request(worker: Any, request: Any) -> None:
        started()
        if user is not None:
            user(worker, request)

    return pre_request


def _after(
    count: RequestCount,
    register: Register,
    user: Hook | None,
    answered: Callable[[Any], None],
    *,
    lost_with: type[SystemExit] | tuple[()],
) -> Hook:
    """Return the hook post_request. ``lost_with``: what ends the worker if a request raises it.

    gunicorn's gthread class ends by SystemExit; its sync and gevent classes answer or close, and go on.
    """
    ended, take_out = count.ended, register.end

    def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
        answered(request)
        error = sys.exc_info()[1]  # the exception that gunicorn is handling, if any
        if error is not None and isinstance(error, MemoryError | StopIteration):
            _count_memory_error(error, count)
        if ANSWERED in environ:
            count.discard()
        else:
            token = environ.get(ENTRY, NO_REQUEST)
            # without a status, the application raised, and gunicorn answers 500
            ended(
                (response is not None and getattr(response, "status_code", None)) or 500, token >> ENTRY_BITS
            )
            if not isinstance(error, lost_with):
                take_out(token)
        if user is not None:
            user(worker, request, environ, response)

    return post_request


def _count_memory_error(error: BaseException, count: RequestCount) -> None:
    """Count a MemoryError; if the response had begun, gunicorn has turned the error into StopIteration."""
    if isinstance(error, MemoryError) or isinstance(error.__context__, MemoryError):
        count.memory_error()
