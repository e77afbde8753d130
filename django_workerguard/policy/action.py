"""Actions: what the plan wants done. Pure values, applied by the arbiter."""

from __future__ import annotations

from dataclasses import dataclass

from django_workerguard.policy.reason import Reason
from django_workerguard.policy.room import Lack


@dataclass(frozen=True)
class Spawn:
    """Start a worker in a slot.

    ``stay``: should its load fail, it stays unloaded. ``reason``: why it is to succeed the incumbent. ``mold``: the seat
    of the mold that forks it; None: the arbiter forks it, and it loads by itself.
    """

    slot: int
    generation: int
    load_timeout: float
    stay: bool = False
    reason: Reason | None = None
    mold: int | None = None


@dataclass(frozen=True)
class SpawnMold:
    """Start the mold of a generation."""

    generation: int
    load_timeout: float


@dataclass(frozen=True)
class Convert:
    """Make an unfit mold the worker of a slot, so that its load is not wasted."""

    seat: int
    slot: int
    reason: Reason | None = None


@dataclass(frozen=True)
class SpawnStandIn:
    pass


@dataclass(frozen=True)
class AwaitRoom:
    """Have these slots, and no others, wait for memory."""

    lacks: tuple[Lack, ...]


@dataclass(frozen=True)
class Admit:
    """Let a loaded worker accept."""

    seat: int


@dataclass(frozen=True)
class Duty:
    """Tell the stand-in or an unloaded worker to answer 503, or to park."""

    seat: int
    on: bool


@dataclass(frozen=True)
class Retire:
    """Ask a worker to leave.

    ``quick``: without finishing its requests. ``makes_room``: its successor is started only
    when it has gone, because there is proof that both do not fit into the memory.
    """

    seat: int
    reason: Reason
    quick: bool = False
    makes_room: bool = False


@dataclass(frozen=True)
class Abort:
    """End a worker with a stack dump."""

    seat: int
    reason: Reason


@dataclass(frozen=True)
class Kill:
    """End a worker at once; ``evil``: by evil-reload-on-rss, in the middle of its work."""

    seat: int
    reason: Reason
    evil: bool = False


@dataclass(frozen=True)
class CloseListeners:
    pass


@dataclass(frozen=True)
class GiveUp:
    """Stop the server with this exit code; its workers get their mercy."""

    exit_code: int
    reason: Reason


@dataclass(frozen=True)
class Halt:
    """End the arbiter: no process is left."""

    exit_code: int
    reason: Reason | None = None


Action = (
    Spawn
    | SpawnMold
    | Convert
    | SpawnStandIn
    | AwaitRoom
    | Admit
    | Duty
    | Retire
    | Abort
    | Kill
    | CloseListeners
    | GiveUp
    | Halt
)
