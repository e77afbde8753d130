"""Figures of one act: lost requests, the least number of ready workers, the time until all are back, p99. Pure.

Times are Unix seconds, durations seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from django_workerguard.values import value_class

SERVER_ERROR = 500
MOMENT = 0.05  # seconds: a signal and the client's clock are not of one instant


@value_class(kw_only=True)
class Request:
    """A request of the drill's load and its answer. ``status`` is 0 and ``error`` says why if there was none."""

    path: str
    sent: float
    seconds: float
    status: int
    error: str = ""

    @property
    def ended(self) -> float:
        return self.sent + self.seconds

    @property
    def is_lost(self) -> bool:
        return not self.status or self.status >= SERVER_ERROR


@value_class
class Ready:
    """The number of ready workers from a time on."""

    at: float
    number: int


@value_class(kw_only=True)
class Window:
    """One act: when it began, when its fault was made, when all workers were ready again, and when it ended."""

    act: str
    begin: float
    fault: float
    end: float
    back: float | None = None  # None: not before the end
    kills: tuple[float, ...] = ()  # when the drill has killed a worker


@value_class(kw_only=True)
class Measures:
    """The figures of one act."""

    requests: int
    lost: int
    in_hand: int  # of the lost ones, those that a worker had in hand when the drill killed it
    errors: tuple[str, ...]  # what the other lost ones got, the most frequent first
    least_ready: int
    back_after: float | None
    p50: float | None
    p99: float | None


def measure(window: Window, requests: Iterable[Request], ready: Sequence[Ready]) -> Measures:
    """Return the figures of an act from the requests that overlap it and the changes of the number of ready workers."""
    inside = [one for one in requests if window.begin <= one.ended and one.sent < window.end]
    lost = [one for one in inside if one.is_lost]
    unexplained = [one for one in lost if not was_in_hand(one, window.kills)]
    answered = [one.seconds for one in inside if not one.is_lost]
    return Measures(
        requests=len(inside),
        lost=len(lost),
        in_hand=len(lost) - len(unexplained),
        errors=_by_frequency(one.error or f"status {one.status}" for one in unexplained),
        least_ready=least_ready(window, ready),
        back_after=None if window.back is None else max(0.0, window.back - window.fault),
        p50=percentile(answered, 50),
        p99=percentile(answered, 99),
    )


def was_in_hand(request: Request, kills: Iterable[float]) -> bool:
    """Return whether a request got no answer because a worker was killed while the request was in progress.

    A killed worker closes its connections without an answer; a status, even 503, comes from a process that lives.
    """
    return not request.status and any(request.sent - MOMENT <= at <= request.ended + MOMENT for at in kills)


def least_ready(window: Window, ready: Sequence[Ready]) -> int:
    """Return the least number of ready workers in an act; the number at its begin counts."""
    before = [one for one in ready if one.at <= window.begin]
    inside = [one.number for one in ready if window.begin < one.at <= window.end]
    return min([*inside, *([before[-1].number] if before else [])], default=0)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that at least ``percent`` of the values do not exceed; None if there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _by_frequency(texts: Iterable[str]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    ordered = sorted(counts, key=lambda text: (-counts[text], text))
    return tuple(f"{text} ({counts[text]})" for text in ordered)


def always_lost(requests: Iterable[Request]) -> dict[str, str]:
    """Return the paths of which every request is lost, with what the first of them got."""
    by_path: dict[str, list[Request]] = {}
    for one in requests:
        by_path.setdefault(one.path, []).append(one)
    return {
        path: ones[0].error or f"status {ones[0].status}"
        for path, ones in by_path.items()
        if all(one.is_lost for one in ones)
    }
