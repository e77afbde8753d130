"""The first words of the board, which are all that a probe needs. Runs in readers and in the arbiter.

Imports nothing, because ``workerguard probe`` runs every few seconds on every host.
"""

from __future__ import annotations

WORD = 8
MAGIC = 0x4452415547524B57  # "WKRGUARD"
VERSION = 5
FEATURES = 0


class Header:
    """Words of the header; the arbiter writes all of them."""

    MAGIC = 0
    VERSION = 1
    FEATURES = 2
    SIZE = 3  # bytes
    SEATS = 4
    SLOTS = 5
    PID = 6
    START = 7  # clock ticks, the arbiter's identity together with PID
    STARTED_AT = 8  # Unix time, µs
    BEAT = 9  # monotonic ns of the last tick
    GENERATION = 10
    TARGET = 11
    READY = 12
    QUORUM = 13  # min-loaded
    REACHED = 14  # 1 once the first quorum was reached
    PHASE = 15
    EVENTS = 16  # events ever written
    SAMPLES = 17  # samples ever taken
    STAND_IN = 18  # 1 while the stand-in answers
    ERRORS = 19  # exceptions in the arbiter that it has survived
    FROZEN = 20  # 1 while the newest generation cannot be loaded and an older one serves
    LIFETIME = 21  # ms, the shortest lifetime that max-worker-lifetime gives a worker; 0: no limit
    RSS_LIMIT = 22  # bytes, the lower of reload-on-rss and evil-reload-on-rss; 0: none
    SURGE = 23
    MEMORY_LIMIT = 24  # bytes that the cgroup allows; 0: no limit
    MEMORY_USED = 25  # bytes that the cgroup uses
    BACKLOG = 26  # connections that wait to be accepted, + 1; 0: unknown
    KIND = 27  # ServerKind
    PROJECT = 28  # path_word of the project's directory
    LOAD = 29  # LoadKind, the option `load`
    UNFIT = 30  # 1 if no worker can be forked from the newest generation's mold
    P50 = 31  # µs, of the durations of the last minute's requests; 0: there were none
    P95 = 32
    P99 = 33
    QUEUE_P50 = 34  # µs, of the times in the queue of the last minute's requests; 0: unknown
    QUEUE_P95 = 35
    QUEUE_P99 = 36
    SHED = 37  # requests of the last minute that were answered 503 because of queue-timeout
    UTILISATION = 38  # per mille of the fleet's capacity that was busy in the last minute, + 1; 0: unknown
    AVAILABLE = 39  # bytes of memory that may still be used, + 1; 0: unknown
    MONITOR_FAILURES = 40  # how often in a row the monitor has ended by itself, or could not be started
    # counts the beginnings and the ends of changes to header and slots: odd while one goes on
    CHANGES = 41
    REFUSED_AT = (
        42  # Unix time, µs, when the last reload was refused; 0: none was since a generation has begun
    )
    NEEDS_RESTART = 43  # 1 if that reload changes what only a restart can change
    NEXT_RELOAD = 44  # monotonic ns, when that reload is tried again; 0: no try is due
    VALID_FOR = 48  # ns without a beat after which the numbers are out of date; 0: for ever
    WORDS = 64


class LoadKind:
    """The values of the option `load`."""

    NAMES = ("lazy", "mold", "auto")


def path_word(path: str) -> int:
    """Return a hash of a path, which is cheaper to compare than the path itself (FNV-1a, 64 bits)."""
    word = 0xCBF29CE484222325
    for byte in path.encode(errors="surrogateescape"):
        word = (word ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return word


class ServerKind:
    """The kind of server that a board belongs to."""

    WEB = 0
    POOL = 1  # the children of a Celery worker
    UNATTENDED = (
        2  # uWSGI without Python threads: the board is out of date between requests, so readers skip it
    )
    NAMES = ("web", "celery")


class Phase:
    """What the arbiter is doing."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2  # drain-delay: still serves, and the ready probe fails
    STOPPING = 3
    NAMES = ("starting", "serving", "draining", "stopping")


class Vitals:
    """The few numbers that a probe needs; ``beat`` in seconds of the monotonic clock, ``valid_for`` in seconds."""

    __slots__ = ("beat", "phase", "quorum", "reached", "ready", "stand_in", "target", "valid_for")

    def __init__(self, words: memoryview) -> None:
        self.beat: float = words[Header.BEAT] / 1e9
        self.phase: int = words[Header.PHASE]
        self.target: int = words[Header.TARGET]
        self.ready: int = words[Header.READY]
        self.quorum: int = words[Header.QUORUM]
        self.reached: bool = words[Header.REACHED] == 1
        self.stand_in: bool = words[Header.STAND_IN] == 1
        self.valid_for: float = words[Header.VALID_FOR] / 1e9
