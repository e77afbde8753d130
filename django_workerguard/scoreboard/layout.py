"""Byte layout of the scoreboard: regions, word offsets, and which process may write each word. Pure.

A board is one file: header, about text, refusal text, seats, slots, journal, samples, tallies, registers, histograms of durations,
tables of memory by view.
Offsets and sizes are in 8-byte words.
Each word has one writer, given in its comment: A is the arbiter, W is the worker in that seat.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from django_workerguard.scoreboard.header import WORD, Header
from django_workerguard.values import value_class

EVENTS = 10_000
EVENT_WORDS = 48
SAMPLES = 360  # one every ten seconds, for an hour
SAMPLE_WORDS = 8
TEXT_WORDS = 1536  # 12 KiB for a traceback or the steps of a load
ABOUT_WORDS = 512
REFUSAL_WORDS = 128  # 1 KiB for why a reload was refused
TALLY_WORDS = 256
LARGEST_WORD = (1 << 64) - 1
ENTRIES = 128  # requests in hand that the register of a seat has room for
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
BUCKETS = 16  # of a histogram of durations, the one without an upper bound included
HISTOGRAM_WORDS = BUCKETS + 1  # a count for each bucket, then the sum of the times in nanoseconds
DURATIONS_WORDS = len(STATUS_CLASSES) * HISTOGRAM_WORDS
HISTOGRAMS_WORDS = DURATIONS_WORDS + HISTOGRAM_WORDS  # the last one is of the times in the queue
VIEWS = 40  # rows of a table of memory by view; the last one is of all views for which there is no other
TABLE_WORDS = 1  # of such a table before its rows
MAX_SEATS = 1024
OTHERS = (
    6  # seats for the stand-in, and for molds: of this generation, of the one before, and of those that leave
)


class Seat(IntEnum):
    """Words of a seat, the record of one process."""

    KIND = 0  # A
    PID = 1  # A, 0: free; a worker serves only after it finds its own pid here
    START = 2  # A, clock ticks
    SLOT = 3  # A
    GENERATION = 4  # A
    SPAWNED = 5  # A, monotonic ns
    ORDERS = 6  # A, Orders
    RSS = 7  # A, bytes, sampled: resident memory; of a worker that a mold has forked only its own
    FORKS = 8  # A, workers forked from this mold
    MOLD = 9  # A, the pid of the mold that it was forked from; 0: none
    ENDED = 10  # A, monotonic ns, when a guard under uWSGI ended the slot's latest process; 0: never
    STATE = 16  # W, SeatState
    BEAT = 17  # W, monotonic ns of the last notify()
    LOAD_END = 18  # W, monotonic ns
    READY = 19  # W, monotonic ns
    REQUESTS = 20  # W
    ERRORS_5XX = 21  # W
    IN_FLIGHT = 22  # W
    STREAK = 23  # W, requests in a row that ended in 5xx
    CAUSE = 24  # W, Cause: the kind of failure of the load
    DUTY = 25  # W, 1 while a stand-in or an unloaded worker accepts and answers 503
    MEMORY_ERRORS = 26  # W, requests that ended in MemoryError
    LAST_5XX = 27  # W, monotonic ns of the latest 5xx
    NOT_ENTERED = 28  # W, requests for which the register had no room
    SHED = 29  # W, requests that were answered 503 because they had waited longer than queue-timeout
    GONE = 30  # W, requests that were not served because their connection had been reset
    RELEASE = 32  # W, 8 words of text
    # W, monotonic ns, since when calls have waited for an executor of the event loop and none has begun; 0: none waits
    LOOP_EXECUTOR = 48
    SHARED_THREAD = 49
    LOOP_LAG = 50  # W, ns: the longest delay of the event loop in the last ten seconds or so
    MAIN_THREAD = 51  # W, its identity: a forced stack has none
    LOOP_DUE = 52  # W, monotonic ns, when the event loop has to call back next; 0: there is no event loop
    NOT_ALONE = (
        53  # W, requests whose growth of memory was not measured because another one was in hand with them
    )
    # W, requests that a worker has accepted and has no thread for yet, on gthread
    WAITING = 54
    WORDS = 64


class Entry(IntEnum):
    """Words of an entry of a seat's register, which holds one request in hand.

    When each was begun is in an array before them, so that looking at all of them is cheap.
    """

    TASK = 0  # W, the identity of the thread, greenlet or task that serves it
    LIMIT = 1  # W, monotonic ns, when it is overdue; 0: as `request-timeout` says
    TARGET = 2  # W, text: method, space, path without the query
    VIEW = 15  # W, text: the name of the view once Django knows it
    WORDS = 24


class ViewRow(IntEnum):
    """Words of a row of a table of memory by view: W in a seat's table, A in that of a slot's processes that are gone.

    ``GREW`` and ``SHRANK`` are sums: what the view has kept is their difference.
    """

    MEASURED = 0  # requests whose growth of private memory is in the next two words
    GREW = 1  # bytes
    SHRANK = 2  # bytes
    FIRST_USES = 3  # the first requests that were measured in each worker: no other sum has them
    FIRST_USE = 4  # bytes by which they grew
    LARGEST = 5  # bytes, of one request, of whichever
    NAME = 6  # text; empty: the row is free
    WORDS = 16


class SeatKind(IntEnum):
    """The kind of process in a seat."""

    FREE = 0
    WORKER = 1
    STAND_IN = 2
    MOLD = 3


class SeatState(IntEnum):
    """The state of the process in a seat, as the process reports it."""

    NONE = 0
    LOADING = 1
    LOADED = 2  # waits for its admission
    READY = 3  # accepts
    FAILED = 4  # its load failed, and it is leaving
    UNLOADED = 5  # its load failed, and it stays (need-app=off)
    PARKED = 6  # a stand-in; Seat.DUTY says whether it accepts
    LEAVING = 7  # it was asked to stop, by the arbiter or by any other process
    UNFIT = 8  # a mold that has loaded, and from which no worker can be forked


class Orders(IntFlag):
    """The arbiter's orders to the process in a seat."""

    NONE = 0
    ADMIT = 1  # begin to accept
    STAY = 2  # if the load fails, stay and be UNLOADED
    DUTY = 4  # answer 503 while no worker is ready
    TERMINATE = 16  # for a pool's child: SIGTERM is meant for this process, not for the whole process group
    LEAVE = 8  # for a pool's child, which no signal may disturb: finish the task in hand and leave


class Cause(IntFlag):
    """The kind of failure of a failed load."""

    NONE = 0
    TRANSIENT = 1  # a later load may succeed without a change
    MEMORY = 2  # a proven lack of memory


class Slot(IntEnum):
    """Words of a slot; the arbiter writes all of them."""

    STATE = 0
    SINCE = 1  # Unix time, µs: when its process became ready, or when the slot last had a ready one
    SEAT = 2  # the incumbent's seat + 1; 0: none
    SUCCESSOR = 3  # the successor's seat + 1; 0: none
    FAILURES = 4  # failed loads in a row
    NEXT_TRY = 5  # monotonic ns; 0: no try is due
    REQUESTS = 6  # of processes that are gone or leaving
    ERRORS_5XX = 7  # of processes that are gone or leaving
    EXITS = 8
    GENERATION = 9
    LOAD_NS = 10  # duration of the incumbent's load
    IN_FLIGHT = 11  # of processes that are leaving
    NOTES = 12  # Note
    NOT_SPAWNED = 13  # processes in a row that could not be started
    SHED = 14  # of processes that are gone or leaving
    GONE = 15  # of processes that are gone or leaving
    P50 = 16  # µs, of the durations of the last minute's requests; 0: there were none
    P95 = 17
    P99 = 18
    NEEDED = 19  # bytes, with memory-margin, for which the next process waits; 0: it does not wait for memory
    MISSING = 20  # bytes of these that are not there
    OFTEN = 21  # the rule that has replaced its workers again and again: its place in RECYCLES + 1; 0: none
    WORDS = 24


class Note(IntFlag):
    """Observations of the policy about a slot, for people."""

    NONE = 0
    OUTLIER = 1  # it answers 5xx, and the other slots do not
    RSS_BASELINE = 2  # a fresh worker is larger than reload-on-rss or evil-reload-on-rss
    OVERDUE = 8  # requests in it have run longer than request-timeout, or their own limit, allows
    STUCK = 16  # every thread has been busy with the same requests for longer than timeout
    STALLED = (
        64  # calls have waited for longer than timeout for an executor of the event loop, and none has begun
    )
    OUTLIER_LATENCY = 32  # it is slower than the other slots
    EVIL_SUSPENDED = 4  # evil-reload-on-rss is suspended: it would kill each fresh worker
    NOT_ENDED = 128  # the slot has a process beside its worker that the kernel does not end


class SlotState(IntEnum):
    """The state of a slot, as the arbiter sees it."""

    EMPTY = 0
    LOADING = 1
    READY = 2
    BACK_OFF = 3
    RETIRING = 4
    UNLOADED = 5
    UNFIT = 6  # of the mold
    NO_ROOM = 7  # waits for memory


class Sample(IntEnum):
    """Words of one sample of one slot; the arbiter writes all of them."""

    AT = 0  # Unix time, s
    REQUESTS = 2
    ERRORS_5XX = 3
    RSS = 5  # bytes


VIEWS_WORDS = TABLE_WORDS + VIEWS * ViewRow.WORDS


@value_class
class Layout:
    """Offsets, in words, of a board with the given numbers of seats and slots."""

    seats: int
    slots: int

    @property
    def about(self) -> int:
        return Header.WORDS

    @property
    def refusal(self) -> int:
        return self.about + ABOUT_WORDS

    def seat(self, index: int) -> int:
        return self.refusal + REFUSAL_WORDS + index * (Seat.WORDS + TEXT_WORDS)

    def slot(self, number: int) -> int:
        """The offset of a slot; slot 0 is the mold's."""
        return self.seat(self.seats) + number * (Slot.WORDS + TEXT_WORDS)

    def event(self, index: int) -> int:
        return self.slot(self.slots + 1) + index * EVENT_WORDS

    def sample(self, slot: int, index: int) -> int:
        return self.event(EVENTS) + ((slot - 1) * SAMPLES + index) * SAMPLE_WORDS

    @property
    def tallies(self) -> int:
        return self.sample(self.slots + 1, 0)

    def started(self, seat: int) -> int:
        """When each request in a seat's register was begun: W, monotonic ns; 0: the entry is free."""
        return self.tallies + TALLY_WORDS + seat * ENTRIES * (1 + Entry.WORDS)

    def entry(self, seat: int, number: int) -> int:
        return self.started(seat) + ENTRIES + number * Entry.WORDS

    @property
    def bounds(self) -> int:
        """The upper bounds of the buckets, all but the last one's: A, nanoseconds; 0: not used."""
        return self.started(self.seats)

    def histograms(self, seat: int) -> int:
        """The histograms of a seat: of durations, one for each of STATUS_CLASSES, and of times in the queue: W."""
        return self.bounds + BUCKETS + seat * HISTOGRAMS_WORDS

    def histograms_before(self, slot: int) -> int:
        """The histograms of a slot's processes that are gone: A."""
        return self.histograms(self.seats) + slot * HISTOGRAMS_WORDS

    def views(self, seat: int) -> int:
        """The table of memory by view of a seat: W. Its first word is not used."""
        return self.histograms_before(self.slots + 1) + seat * VIEWS_WORDS

    def views_before(self, slot: int) -> int:
        """The table of a slot's processes that are gone: A. Its first word is their generation."""
        return self.views(self.seats) + slot * VIEWS_WORDS

    @property
    def size(self) -> int:
        """The size of the board in bytes."""
        return self.views_before(self.slots + 1) * WORD


def layout_for(workers: int, *, surge: int) -> Layout:
    """Choose the number of seats of a new board: for the target, surge and retiring workers, and for growth by SIGTTIN."""
    slots = min(MAX_SEATS // 2, max(16, 2 * workers))
    return Layout(seats=min(MAX_SEATS, 2 * slots + surge + OTHERS), slots=slots)
