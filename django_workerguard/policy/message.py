"""Messages: the events that change the fleet. Pure values; ``at`` is in seconds that the arbiter was awake."""

from __future__ import annotations

from django_workerguard.policy.failure import Failure
from django_workerguard.policy.reason import Reason
from django_workerguard.policy.room import Lack
from django_workerguard.policy.view import Retry, State
from django_workerguard.values import value_class


@value_class
class Spawning:
    """A process was asked for; `Spawned` or `SpawnFailed` follows."""

    slot: int
    seat: int
    generation: int
    load_timeout: float
    at: float
    reason: Reason | None = None  # why the incumbent is to be succeeded, if there is one
    mold: int | None = None  # the seat of the mold that was asked


@value_class
class Spawned:
    """The process in a seat is there."""

    seat: int
    pid: int
    at: float


@value_class
class SpawnFailed:
    """The fork failed, or there was no seat.

    ``excused``: the mold is to blame, so the slot need not wait. ``memory``: the mold had no memory for the fork.
    """

    slot: int
    at: float
    seat: int | None = None
    excused: bool = False
    memory: bool = False


@value_class
class MoldSpawned:
    """The process of a mold is there."""

    seat: int
    pid: int
    generation: int
    load_timeout: float
    at: float


@value_class
class Converted:
    """An unfit mold has become the worker of a slot."""

    seat: int
    slot: int
    at: float
    reason: Reason | None = None  # why the incumbent is to be succeeded, if there is one


@value_class
class Reading:
    """The state and the counters in one seat."""

    seat: int
    state: State | None  # None: it has said nothing yet
    beat: int
    on_duty: bool = False
    requests: int = 0
    errors: int = 0
    memory_errors: int = 0
    in_flight: int = 0
    overdue: tuple[str, ...] = ()  # method and path of each request that has run too long, the oldest first
    waiting: int = 0  # requests that it has accepted and has no thread for yet
    long: int = 0  # requests that have run for longer than gunicorn's timeout
    stalled: float = (
        0.0  # seconds for which calls have waited for an executor of the event loop, and none has begun
    )


@value_class
class Observed:
    """The present readings of the seats."""

    readings: tuple[Reading, ...]
    at: float


@value_class
class Measured:
    """The resident memory of processes, in bytes by seat, and the connections that wait to be accepted."""

    rss: tuple[tuple[int, int], ...]
    at: float
    backlog: int | None = 0  # None: unknown


@value_class
class RoomMeasured:
    """The memory that is left, in bytes, and the pressure on it in percent; None: unknown."""

    free: int | None
    pressure: float | None


@value_class
class Weighed:
    """What the load of a process needed at its peak, in bytes beyond what it shares."""

    seat: int
    size: int


@value_class
class RoomAwaited:
    """These slots, and no others, wait for memory."""

    lacks: tuple[Lack, ...]
    at: float


@value_class
class Timed:
    """How many requests took how long, by seat: the counts of each bucket, and the buckets' upper bounds in seconds."""

    counts: tuple[tuple[int, tuple[int, ...]], ...]
    bounds: tuple[float, ...]
    at: float


@value_class
class LoadFailed:
    """A load has failed, and this is why; the process may be gone, or stay unloaded."""

    failure: Failure


@value_class
class Exited:
    """A worker is gone.

    ``clean`` is exit code 0, ``transient`` a cause that may pass by itself, ``memory`` a
    proven want of memory.
    """

    seat: int
    at: float
    clean: bool = False
    transient: bool = True
    memory: bool = False


@value_class
class Asked:
    """A worker was asked to leave; ``makes_room``: its successor waits until it has gone."""

    seat: int
    reason: Reason
    at: float
    quick: bool = False
    makes_room: bool = False


@value_class
class Aborted:
    """A worker was sent SIGABRT: it writes its stacks and ends."""

    seat: int
    reason: Reason
    at: float


@value_class
class Killed:
    """A worker, or the stand-in, was sent SIGKILL; ``evil``: by evil-reload-on-rss."""

    seat: int
    reason: Reason
    at: float
    evil: bool = False


@value_class
class Admitted:
    """A loaded worker was told to accept connections."""

    seat: int
    at: float


@value_class
class DutySet:
    """The stand-in, or an unloaded worker, was ordered to answer or to park."""

    seat: int
    on: bool
    at: float


@value_class
class StandInSpawned:
    """The process of the stand-in is there."""

    seat: int
    pid: int
    at: float


@value_class
class StandInGone:
    """The stand-in in a seat has ended, or none could be started (None)."""

    at: float
    seat: int | None = None


@value_class
class TargetChanged:
    """Another number of workers was asked for, ``by_hand`` or by what the server has measured."""

    target: int
    by_hand: bool = True


@value_class
class GenerationStarted:
    """New code and settings are to be loaded; ``target`` counts once they have been."""

    at: float
    target: int | None = None


@value_class
class ReloadBegun:
    """A reload reads its settings and its configuration; `GenerationStarted` or `ReloadRefused` follows.

    ``retry``: the server tries again by itself, because the last reload was refused.
    """

    retry: bool = False


@value_class
class ReloadRefused:
    """The settings or the configuration of a reload cannot be used."""

    reason: str
    at: float
    retry: Retry


@value_class
class RecycleAsked:
    """The worker of a slot is to be replaced."""

    slot: int
    reason: Reason


@value_class
class StopAsked:
    """The server is to end, with an exit code."""

    at: float
    quick: bool = False
    exit_code: int = 0
    reason: Reason | None = None


@value_class
class ListenersClosed:
    """The server no longer accepts connections."""

    at: float


Message = (
    Spawning
    | Spawned
    | SpawnFailed
    | MoldSpawned
    | Converted
    | Observed
    | Measured
    | RoomMeasured
    | Weighed
    | RoomAwaited
    | Timed
    | LoadFailed
    | Exited
    | Asked
    | Aborted
    | Killed
    | Admitted
    | DutySet
    | StandInSpawned
    | StandInGone
    | TargetChanged
    | GenerationStarted
    | ReloadBegun
    | ReloadRefused
    | RecycleAsked
    | StopAsked
    | ListenersClosed
)
