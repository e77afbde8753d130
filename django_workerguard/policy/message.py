"""What happened, told to the fleet. Pure values; ``at`` is seconds the arbiter was awake."""

from __future__ import annotations

from dataclasses import dataclass

from django_workerguard.policy.view import State


@dataclass(frozen=True)
class Spawned:
    slot: int
    seat: int
    pid: int
    load_timeout: float
    at: float


@dataclass(frozen=True)
class SpawnFailed:
    """The fork failed, or there was no seat."""

    slot: int
    at: float


@dataclass(frozen=True)
class Reading:
    """What one seat says just now."""

    seat: int
    state: State | None  # None: it has said nothing yet
    beat: int
    on_duty: bool = False


@dataclass(frozen=True)
class Observed:
    readings: tuple[Reading, ...]
    at: float


@dataclass(frozen=True)
class Exited:
    """A worker is gone; ``clean`` is exit code 0, ``transient`` a cause that may pass by itself."""

    seat: int
    at: float
    clean: bool = False
    transient: bool = True


@dataclass(frozen=True)
class Asked:
    """A worker was asked to leave."""

    seat: int
    reason: str
    at: float
    quick: bool = False


@dataclass(frozen=True)
class Aborted:
    seat: int
    reason: str
    at: float


@dataclass(frozen=True)
class Admitted:
    seat: int
    at: float


@dataclass(frozen=True)
class DutySet:
    """The stand-in, or an unloaded worker, was told to answer or to park."""

    seat: int
    on: bool
    at: float


@dataclass(frozen=True)
class StandInSpawned:
    seat: int
    pid: int
    at: float


@dataclass(frozen=True)
class StandInGone:
    at: float


@dataclass(frozen=True)
class TargetChanged:
    target: int


@dataclass(frozen=True)
class GenerationStarted:
    at: float


@dataclass(frozen=True)
class RecycleAsked:
    slot: int
    reason: str


@dataclass(frozen=True)
class StopAsked:
    at: float
    quick: bool = False
    exit_code: int = 0
    reason: str = ""


@dataclass(frozen=True)
class ListenersClosed:
    at: float


Message = (
    Spawned
    | SpawnFailed
    | Observed
    | Exited
    | Asked
    | Aborted
    | Admitted
    | DutySet
    | StandInSpawned
    | StandInGone
    | TargetChanged
    | GenerationStarted
    | RecycleAsked
    | StopAsked
    | ListenersClosed
)
