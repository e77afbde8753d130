"""Boards that no arbiter writes: a server in a chosen situation, for tests and pictures of what readers show."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Mapping
from typing import Any

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import write_event
from django_workerguard.scoreboard.layout import (
    SAMPLES,
    Layout,
    Note,
    Sample,
    Seat,
    SeatKind,
    SeatState,
    Slot,
    SlotState,
)
from django_workerguard.worker.register import ENTRY_MASK, Register

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/.venv/lib/python3.12/site-packages/django/core/handlers/wsgi.py", line 118, in __init__
    self.load_middleware()
  File "/srv/shop/shop/urls.py", line 7, in <module>
    from shop.cards import views
  File "/srv/shop/shop/cards/views.py", line 3, in <module>
    import cards_client
ModuleNotFoundError: No module named 'cards_client'
"""
ERROR: Mapping[str, Any] = {
    "type": "ModuleNotFoundError",
    "message": "No module named 'cards_client'",
    "step": "urlconf",
    "traceback": TRACEBACK,
}
STEPS = [
    {"name": name, "seconds": seconds, "peak_bytes": 1 << 22, "retained_bytes": kept << 20,
     "threads_left": 0, "sockets_left": 0, "left": [], "skipped": []}
    for name, seconds, kept in (("app", 0.41, 21), ("urlconf", 0.22, 9), ("templates", 0.05, 1), ("lazy", 0.12, 4),
                                ("warmup:/", 0.08, 2))
]  # fmt: skip


class Fleet:
    """A board with ready workers, and methods that change it into what is to be looked at."""

    def __init__(
        self, slots: int, *, name: str = "shop", minutes: int = 60, now: float | None = None
    ) -> None:
        self.now = time.time() if now is None else now
        self.board = Board.create(Layout(seats=2 * slots + 2, slots=slots), None)
        self.slots = slots
        self._registers: dict[int, Register] = {}
        words = self.board.words
        words[Header.STARTED_AT] = int((self.now - 60 * minutes) * 1e6)
        words[Header.BEAT] = monotonic_ns()
        for word, value in (
            (Header.PID, 4700),
            (Header.TARGET, slots),
            (Header.READY, slots),
            (Header.QUORUM, 1),
            (Header.REACHED, 1),
            (Header.PHASE, 1),
            (Header.GENERATION, 3),
            (Header.BACKLOG, 1),
            (Header.UTILISATION, 341),
            (Header.SURGE, 1),
        ):
            words[word] = value
        self.quantiles(Header.P50, 12, 48, 130)
        self.quantiles(Header.QUEUE_P50, 0.2, 1.4, 6)
        self.board.write_about(
            {
                "host": "web-1",
                "name": name,
                "project": "/srv/shop",
                "bind": ["http://127.0.0.1:8000"],
                "worker_class": "gthread",
                "settings": "shop.settings",
            }
        )
        for slot in range(1, slots + 1):
            self._ready(slot)
            self._samples(slot, 6 * minutes)
        words[Header.SAMPLES] = 6 * minutes
        self.event("started", self.now - 60 * minutes, pid=4700, bind="http://127.0.0.1:8000", target=slots)
        for slot in range(1, slots + 1):
            common = {"slot": slot, "pid": 4700 + slot, "generation": 3}
            self.event("spawned", self.now - 60 * minutes + slot, **common)
            self.event(
                "ready",
                self.now - 60 * minutes + slot + 0.9,
                **common,
                load_seconds=0.88,
                ready=slot,
                target=slots,
                steps="app 0.41, urlconf 0.22",
            )

    def quantiles(self, at: int, *milliseconds: float) -> None:
        self.board.words[at : at + 3] = memoryview(array("Q", (int(ms * 1000) for ms in milliseconds)))

    def event(self, name: str, at: float, **fields: Any) -> None:
        write_event(self.board, {"at": at, "event": name, **fields})

    def seat(self, slot: int) -> int:
        return self.board.layout.seat(slot - 1)

    def slot(self, slot: int) -> int:
        return self.board.layout.slot(slot)

    def _ready(self, slot: int) -> None:
        words, at, seat = self.board.words, self.slot(slot), self.seat(slot)
        for word, value in (
            (Slot.SEAT, slot),
            (Slot.STATE, SlotState.READY),
            (Slot.SINCE, int((self.now - 3500 + slot) * 1e6)),
            (Slot.GENERATION, 3),
            (Slot.LOAD_NS, 880_000_000),
        ):
            words[at + word] = value
        for word, value in (
            (Seat.KIND, SeatKind.WORKER),
            (Seat.PID, 4700 + slot),
            (Seat.SLOT, slot),
            (Seat.STATE, SeatState.READY),
            (Seat.RSS, (61 + slot % 7) << 20),
            (Seat.REQUESTS, 100_000 + 40 * 360 * (slot % 5 + 1)),
        ):
            words[seat + word] = value
        self.quantiles(at + Slot.P50, 10 + slot % 4, 44 + slot % 9, 120)
        self.board.write_release(slot - 1, "2026.11")
        self.board.write_seat_report(slot - 1, {"steps": STEPS})

    def _samples(self, slot: int, taken: int, *, grows: int = 0) -> None:
        total, layout, words = 100_000, self.board.layout, self.board.words
        for number in range(taken):
            total += int(40 + 30 * math.sin(number / 17 + slot) + 9 * (number * 7919 % 5))
            at = layout.sample(slot, number % SAMPLES)
            words[at + Sample.AT] = int(self.now - 10 * (taken - number - 1))
            words[at + Sample.REQUESTS] = total
            words[at + Sample.RSS] = ((61 + slot % 7) << 20) + grows * number // max(1, taken)
        words[self.seat(slot) + Seat.REQUESTS] = total

    def back_off(
        self, slot: int, *, failures: int = 4, next_try: float = 12.0, error: Mapping[str, Any] = ERROR
    ) -> None:
        """The worker of a slot was killed, and its successors cannot load."""
        words, at, now = self.board.words, self.slot(slot), self.now
        for word, value in (
            (Slot.SEAT, 0),
            (Slot.STATE, SlotState.BACK_OFF),
            (Slot.SINCE, int((now - 120) * 1e6)),
            (Slot.FAILURES, failures),
            (Slot.NEXT_TRY, monotonic_ns() + int(next_try * 1e9)),
            (Slot.REQUESTS, words[self.seat(slot) + Seat.REQUESTS]),
            (Slot.LOAD_NS, 0),
        ):
            words[at + word] = value
        words[self.seat(slot) + Seat.PID] = 0
        words[Header.READY] -= 1
        self.board.write_last_error(slot, {**error, "at": now - 7}, steps=STEPS[:1])
        common = {"slot": slot, "generation": 3}
        end = {"end": "killed by SIGKILL", "by": "out-of-memory", "state": "ready", "lived": 3300.0}
        self.event("exited", now - 120, pid=4700 + slot, **end, **common)
        for number in range(failures):
            pid, when = 5000 + 100 * slot + number, now - 110 + 25 * number
            self.event("spawned", when, pid=pid, **common)
            self.event(
                "load-failed", when + 1, pid=pid, **common,
                **{key: error[key] for key in ("type", "message", "step")},
            )  # fmt: skip
            self.event("back-off", when + 1, pid=pid, **common, seconds=24.0, failures=number + 1)

    def frozen(self) -> None:
        """A reload whose new code cannot be loaded: the workers of the generation before serve."""
        words = self.board.words
        words[Header.FROZEN], words[Header.GENERATION] = 1, 4
        words[self.slot(1) + Slot.FAILURES] = 3
        words[self.slot(1) + Slot.NEXT_TRY] = monotonic_ns() + 8 * 10**9
        self.board.write_last_error(1, {**ERROR, "at": self.now - 5}, steps=STEPS[:1])
        self.event("reload", self.now - 70, generation=4, by="signal HUP")
        self.event("load-failed", self.now - 69, slot=1, pid=5001, generation=4, **without_traceback(ERROR))
        self.event("frozen", self.now - 69, generation=4, **without_traceback(ERROR))

    def in_hand(
        self, slot: int, seconds: float, target: str = "GET /books/7/", view: str = "shop.views.book"
    ) -> None:
        words, seat = self.board.words, slot - 1
        register = self._registers.setdefault(seat, Register(self.board, seat))
        number = register.begin(target.encode()) & ENTRY_MASK
        register.name_view(view)
        words[self.board.layout.started(seat) + number] = monotonic_ns() - int(seconds * 1e9)
        words[self.seat(slot) + Seat.IN_FLIGHT] += 1

    def note(self, slot: int, note: Note) -> None:
        self.board.words[self.slot(slot) + Slot.NOTES] |= note

    def slow(self, slot: int) -> None:
        self.note(slot, Note.OUTLIER_LATENCY)
        self.quantiles(self.slot(slot) + Slot.P50, 840, 2100, 4000)

    def stuck(self, slot: int) -> None:
        self.note(slot, Note.STUCK)
        for number in range(2):
            self.in_hand(slot, 184 - number, "GET /cards/pay/")

    def grows(self, slot: int, megabytes: int) -> None:
        self._samples(slot, 360, grows=megabytes << 20)
        self.board.words[self.seat(slot) + Seat.RSS] = ((61 + slot % 7) + megabytes) << 20

    def errors(self, slot: int, count: int) -> None:
        """So many responses of the last minute were 5xx."""
        words, layout = self.board.words, self.board.layout
        newest = words[Header.SAMPLES] - 1
        for back in range(6):
            words[layout.sample(slot, (newest - back) % SAMPLES) + Sample.ERRORS_5XX] = (
                count * (6 - back) // 6
            )
        words[self.seat(slot) + Seat.ERRORS_5XX] = count

    def mold(self, *, forks: int) -> None:
        """A mold from which every worker was forked."""
        words, seat = self.board.words, self.board.layout.seat(2 * self.slots)
        for word, value in (
            (Slot.SEAT, 2 * self.slots + 1),
            (Slot.STATE, SlotState.READY),
            (Slot.SINCE, int((self.now - 3600) * 1e6)),
            (Slot.GENERATION, 3),
            (Slot.LOAD_NS, 880_000_000),
        ):
            words[self.slot(0) + word] = value
        for word, value in (
            (Seat.KIND, SeatKind.MOLD),
            (Seat.PID, 4699),
            (Seat.STATE, SeatState.READY),
            (Seat.RSS, 66 << 20),
            (Seat.FORKS, forks),
        ):
            words[seat + word] = value
        words[Header.LOAD] = 1
        for slot in range(1, self.slots + 1):
            words[self.seat(slot) + Seat.MOLD] = 4699
            words[self.seat(slot) + Seat.RSS] = 14 << 20


def without_traceback(error: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in error.items() if key != "traceback"}
