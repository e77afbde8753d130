"""Data of the dashboard, rendered at most once a second for all viewers. Runs in the worker."""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from django_workerguard.conf import pool_snapshots
from django_workerguard.config.text import plain
from django_workerguard.dashboard import fragments, svg
from django_workerguard.dashboard.sparklines import sparkline
from django_workerguard.dashboard.tiles import Recent
from django_workerguard.report.findings import assess
from django_workerguard.report.rates import rates
from django_workerguard.report.timeline import WINDOW, Timeline
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.in_hand import requests_of_servers
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.samples import read_recent, read_series, read_totals
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.current import current_board

KEPT = 1.0  # seconds
RECENT = 6  # samples: the last minute
LATEST = 30  # events


class HtmlCache:
    """The parts of the dashboard as HTML. Each part is rendered at most once a second."""

    def __init__(self, board: Board, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._board = board
        self._clock = clock
        self._kept: dict[str, tuple[float, str]] = {}
        self._timeline = Timeline()
        self._latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
        self._recent: Mapping[int, Recent] = {}
        self._recent_version: tuple[int, ...] = ()
        self._bars = svg.Bars(board.words[Header.STARTED_AT] / 1e6)
        self._lock = threading.Lock()  # the timeline must not grow in two threads at once

    def tiles(self, slot_url: str) -> str:
        """Return the state of the server. ``slot_url`` is the URL of slot 0's page, from which the links are made."""
        return self._once(f"tiles {slot_url}", lambda: self._tiles(slot_url))

    def _tiles(self, slot_url: str) -> str:
        board = self._board
        shot = snapshot(board)
        recent = self._recent_of([slot["slot"] for slot in shot["slots"]])
        pools = "".join(map(fragments.pool_tiles, pool_snapshots()))
        return fragments.tiles(shot, slot_url, recent, requests_of_servers([board])) + pools

    def _recent_of(self, slots: Sequence[int]) -> Mapping[int, Recent]:
        """Return the last minute and hour of each slot, which change only with a new sample."""
        version = (self._board.words[Header.SAMPLES], *slots)
        if version != self._recent_version:
            self._recent = {slot: recent_of(self._board, slot) for slot in slots}
            self._recent_version = version
        return self._recent

    def state(self) -> dict[str, str]:
        """Return the state of the server: a line for screen readers, the title of the tab, a word, and its name."""
        shot = snapshot(self._board)
        return {
            "summary": fragments.summary(shot),
            "tab": fragments.page_title(shot),
            "worst": fragments.worst_of(assess(shot)),
            "server": plain(f"{shot['name']} on {shot['host']}"),
        }

    def history(self, window: float = WINDOW) -> str:
        """Return the drawings and tables of the last hour, or of the last ``window`` seconds, and the latest events."""
        return self._once(f"history {window:g}", lambda: self._history(window))

    def _once(self, key: str, make: Callable[[], str]) -> str:
        made, html = self._kept.get(key, (float("-inf"), ""))
        if self._clock() - made < KEPT:
            return html
        with self._lock:
            made, html = self._kept.get(key, (float("-inf"), ""))
            if self._clock() - made >= KEPT:
                html = make()
                self._kept = {**self._kept, key: (self._clock(), html)} if len(self._kept) < 8 else {}
        return html

    def _history(self, window: float) -> str:
        board, now = self._board, time.time()
        self._timeline.feed(self._new_events())
        self._timeline.forget(now)
        totals = read_totals(board)
        axis = svg.Axis.since(board.words[Header.STARTED_AT] / 1e6, now, longest=window)
        latest_rates = rates(totals.at, totals.requests, totals.errors_5xx)
        slots = range(1, min(board.words[Header.TARGET], board.layout.slots) + 1)
        events = fragments.event_list(reversed(self._latest))
        return (
            svg.history(self._timeline, self._bars, slots, latest_rates, axis)
            + f'<h3>The latest events</h3><ol class="wg-happened">{events}</ol>'
        )

    def _new_events(self) -> Iterator[dict[str, Any]]:
        for event in read_events(self._board, after=self._timeline.last_number):
            self._latest.append(event)
            yield event


def recent_of(board: Board, slot: int) -> Recent:
    """Return the last minute and hour of a slot, with their drawings."""
    requests, errors, seconds = read_recent(board, slot, samples=RECENT)
    series = read_series(board, slot)
    sizes = [size for size in series.rss if size]
    return Recent(
        requests,
        errors,
        seconds,
        sparkline(series.requests, "Requests in the last hour"),
        sparkline(series.rss, "Memory in the last hour", floor=min(sizes, default=0) * 0.8),
        sizes[-1] - sizes[0] if sizes else 0,
    )


@functools.lru_cache(maxsize=1)
def _html_cache_of(board: Board) -> HtmlCache:
    return HtmlCache(board)


def html_cache() -> HtmlCache | None:
    """Return the cache of this process; None if it belongs to no guarded server."""
    board = current_board()
    return _html_cache_of(board) if board is not None else None


class SlotEvents:
    """The latest events of each slot. Each event is read from the journal only once."""

    def __init__(self, board: Board, *, at_most: int) -> None:
        self._board = board
        self._last_number = 0
        self._by_slot: defaultdict[int, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=at_most))
        self._lock = threading.Lock()

    def of(self, slot: int) -> list[dict[str, Any]]:
        """Return the events of a slot, the latest first."""
        with self._lock:
            for event in read_events(self._board, after=self._last_number):
                self._last_number = event["number"]
                if isinstance(number := event.get("slot"), int):
                    self._by_slot[number].appendleft(event)
            return list(self._by_slot.get(slot, ()))


@functools.lru_cache(maxsize=1)
def _slot_events(board: Board, at_most: int) -> SlotEvents:
    return SlotEvents(board, at_most=at_most)


def events_of(board: Board, slot: int, *, at_most: int) -> list[dict[str, Any]]:
    """Return the latest events of a slot, the latest first."""
    return _slot_events(board, at_most).of(slot)
