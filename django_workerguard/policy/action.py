"""Actions: what the plan wants done. Pure values, applied by the arbiter."""

from __future__ import annotations

from django_workerguard.policy.reason import Reason
from django_workerguard.policy.room import Lack
from django_workerguard.values import value_class


@value_class
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


@value_class
class SpawnMold:
    """Start the mold of a generation."""

    generation: int
    load_timeout: float


@value_class
class Convert:
    """Make an unfit mold the worker of a slot, so that its load is not wasted."""

    seat: int
    slot: int
    reason: Reason | None = None


@value_class
class SpawnStandIn:
    """Start the stand-in."""


@value_class
class AwaitRoom:
    """Have these slots, and no others, wait for memory."""

    lacks: tuple[Lack, ...]


@value_class
class Admit:
    """Let a loaded worker accept."""

    seat: int


@value_class
class Duty:
    """Tell the stand-in or an unloaded worker to answer 503, or to park."""

    seat: int
    on: bool


@value_class
class Retire:
    """Ask a worker to leave.

    ``quick``: without finishing its requests. ``makes_room``: its successor is started only
    when it has gone, because there is proof that both do not fit into the memory.
    """

    seat: int
    reason: Reason
    quick: bool = False
    makes_room: bool = False


@value_class
class Abort:
    """End a worker with a stack dump."""

    seat: int
    reason: Reason


@value_class
class Kill:
    """End a worker at once; ``evil``: by evil-reload-on-rss, in the middle of its work."""

    seat: int
    reason: Reason
    evil: bool = False


@value_class
class Reload:
    """Try a reload again that was refused."""


@value_class
class CloseListeners:
    """Stop accepting connections."""


@value_class
class GiveUp:
    """Stop the server with this exit code; its workers get their mercy."""

    exit_code: int
    reason: Reason


@value_class
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
    | Reload
    | CloseListeners
    | GiveUp
    | Halt
)
