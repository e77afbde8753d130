"""Where what lies on the scoreboard. Pure.

A board is one file: header, about text, seats, slots, journal, samples, tallies. Everything is
counted in 8-byte words. Each word has one writer, named in its comment: A is the arbiter,
W the worker in that seat.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from django_workerguard.scoreboard.header import WORD, Header

EVENTS = 10_000
EVENT_WORDS = 48
SAMPLES = 360  # an hour of one every ten seconds
SAMPLE_WORDS = 8
TEXT_WORDS = 1536  # 12 KiB for a traceback or the load's steps
ABOUT_WORDS = 512
TALLY_WORDS = 256
MAX_SEATS = 1024


class Seat(IntEnum):
    """Words of a seat: one process."""

    KIND = 0  # A
    PID = 1  # A, 0: free; a worker serves only once it finds itself here
    START = 2  # A, clock ticks
    SLOT = 3  # A
    GENERATION = 4  # A
    SPAWNED = 5  # A, monotonic ns
    ORDERS = 6  # A, Orders
    RSS = 7  # A, bytes, sampled
    STATE = 16  # W, SeatState
    BEAT = 17  # W, monotonic ns of the last notify()
    LOAD_END = 18  # W, monotonic ns
    READY = 19  # W, monotonic ns
    REQUESTS = 20  # W
    ERRORS_5XX = 21  # W
    IN_FLIGHT = 22  # W
    STREAK = 23  # W, requests in a row that ended in 5xx
    CAUSE = 24  # W, Cause: what kind of failure the load's was
    DUTY = 25  # W, 1: a stand-in or unloaded worker that accepts, and answers 503
    MEMORY_ERRORS = 26  # W, requests that ended in MemoryError
    LAST_5XX = 27  # W, monotonic ns of the latest 5xx
    RELEASE = 32  # W, 8 words of text
    WORDS = 64


class SeatKind(IntEnum):
    """What sits in a seat."""

    FREE = 0
    WORKER = 1
    STAND_IN = 2


class SeatState(IntEnum):
    """What the process in a seat says of itself."""

    NONE = 0
    LOADING = 1
    LOADED = 2  # waits to be admitted
    READY = 3  # accepts
    FAILED = 4  # its load failed; it is leaving
    UNLOADED = 5  # its load failed and it stays (need-app=off)
    PARKED = 6  # a stand-in; whether it accepts is in Seat.DUTY
    LEAVING = 7  # it was told to stop, by whomever


class Orders(IntFlag):
    """What the arbiter lets the process in a seat do."""

    NONE = 0
    ADMIT = 1  # begin to accept
    STAY = 2  # should the load fail, stay and be UNLOADED
    DUTY = 4  # answer 503 while nobody is ready
    TERMINATE = 16  # SIGTERM is meant for this process, a pool's child, and not for the whole process group
    LEAVE = 8  # finish what is in hand and leave: how a pool's child is asked, which no signal may disturb


class Cause(IntFlag):
    """What kind of failure a failed load was."""

    NONE = 0
    TRANSIENT = 1  # it may pass by itself
    MEMORY = 2  # a proven want of memory


class Slot(IntEnum):
    """Words of a slot; all A."""

    STATE = 0
    SINCE = 1  # Unix time, µs
    SEAT = 2  # the incumbent's seat + 1; 0: none
    SUCCESSOR = 3  # the successor's seat + 1; 0: none
    FAILURES = 4  # failed loads in a row
    NEXT_TRY = 5  # monotonic ns; 0: none is due
    REQUESTS = 6  # of processes that are gone or leaving
    ERRORS_5XX = 7  # of processes that are gone or leaving
    EXITS = 8
    GENERATION = 9
    LOAD_NS = 10  # how long the incumbent's load took
    IN_FLIGHT = 11  # of processes that are leaving
    NOTES = 12  # Note
    NOT_SPAWNED = 13  # processes in a row that could not be started
    WORDS = 16


class Note(IntFlag):
    """What a person should know of a slot, as the policy sees it."""

    NONE = 0
    OUTLIER = 1  # it answers 5xx where its peers do not
    RSS_BASELINE = 2  # a fresh worker is larger than reload-on-rss or evil-reload-on-rss
    EVIL_SUSPENDED = 4  # evil-reload-on-rss would kill one fresh worker after the other


class SlotState(IntEnum):
    """What a slot is doing, as the arbiter sees it."""

    EMPTY = 0
    LOADING = 1
    READY = 2
    BACK_OFF = 3
    RETIRING = 4
    UNLOADED = 5


class Sample(IntEnum):
    """Words of one sample of one slot; all A."""

    AT = 0  # Unix time, s
    STATE = 1
    REQUESTS = 2
    ERRORS_5XX = 3
    IN_FLIGHT = 4
    RSS = 5
    GENERATION = 6


@dataclass(frozen=True)
class Layout:
    """Offsets, in words, of a board with so many seats and slots."""

    seats: int
    slots: int

    @property
    def about(self) -> int:
        return Header.WORDS

    def seat(self, index: int) -> int:
        return self.about + ABOUT_WORDS + index * (Seat.WORDS + TEXT_WORDS)

    def slot(self, number: int) -> int:
        return self.seat(self.seats) + (number - 1) * (Slot.WORDS + TEXT_WORDS)

    def event(self, index: int) -> int:
        return self.slot(self.slots + 1) + index * EVENT_WORDS

    def sample(self, slot: int, index: int) -> int:
        return self.event(EVENTS) + ((slot - 1) * SAMPLES + index) * SAMPLE_WORDS

    @property
    def tallies(self) -> int:
        return self.sample(self.slots + 1, 0)

    @property
    def size(self) -> int:
        """The whole board, in bytes."""
        return (self.tallies + TALLY_WORDS) * WORD


def layout_for(workers: int, *, surge: int) -> Layout:
    """Choose the seats of a new board: target, surge and retiring workers, and room to grow by TTIN."""
    slots = min(MAX_SEATS // 2, max(16, 2 * workers))
    return Layout(seats=min(MAX_SEATS, 2 * slots + surge + 2), slots=slots)
