"""The outcome of a reload or a recycle, from the events that follow it: what ``--wait`` and the dashboard report. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django_workerguard.values import value_class

FAILED = ("load-failed", "spawn-failed")
MOLD = 0  # the slot of the mold's events
# the events that show the progress
PROGRESS = (
    "reload",
    "mold-spawned",
    "mold-ready",
    "mold-unfit",
    "spawned",
    "ready",
    "retiring",
    "exited",
    "load-failed",
    "spawn-failed",
    "no-room",
    "frozen",
    "scaled",
    "killed",
    "not-ended",
)
Event = Mapping[str, Any]


@value_class
class Outcome:
    """How a request ended: ``done``, ``failed`` (a load that it caused) or ``refused``. ``event`` is the one that shows it."""

    kind: str
    text: str
    event: Event


class Reload:
    """Follows a reload."""

    def __init__(self, load: str) -> None:
        self._load = load
        self._generation: int | None = None  # the one that this reload has begun

    def take(self, event: Event) -> Outcome | None:
        """Take the next event. Return the outcome once it is known."""
        match event.get("event"):
            case "reload-refused":
                again = " The server tries again by itself." if event.get("next_try") else ""
                text = f"the reload was refused and nothing has changed: {event.get('reason')}{again}"
                return Outcome("refused", text, event)
            case "reload":
                self._generation = event["generation"]
            case "reloaded" if self._generation is not None:
                return Outcome("done", "reload: done.", event)
        concerns = self._generation is not None and event.get("generation", 0) >= self._generation
        return failure(event, self._load) if concerns else None


class Recycle:
    """Follows the replacement of workers. ``workers``: the pids of those that are to leave, by slot.

    It is done when they have ended and each slot has had another worker that was ready: before or, as with ``surge=0``,
    after that.
    """

    def __init__(self, load: str, workers: Mapping[int, int]) -> None:
        self._load = load
        self._workers = workers
        self._leaving = set(workers.values())
        self._open = set(workers)  # slots without a replacement

    def take(self, event: Event) -> Outcome | None:
        """Take the next event. Return the outcome once it is known."""
        slot, pid = event.get("slot", -1), event.get("pid")
        # without a mold there is no replacement either
        failed = failure(event, self._load) if slot == MOLD or slot in self._workers else None
        if failed is not None:
            return failed
        match event.get("event"):
            case "ready" if pid != self._workers.get(slot):
                self._open.discard(slot)
            case "exited" | "not-ended":
                self._leaving.discard(pid)
        target = event.get("target")
        if isinstance(target, int):  # slots above it get none
            self._open = {slot for slot in self._open if slot <= target}
        return None if self._leaving or self._open else Outcome("done", "recycle: done.", event)


def failure(event: Event, load: str) -> Outcome | None:
    """Return the outcome if an event says that a load has failed. With load=auto an unfit mold is none: each worker loads."""
    name = event.get("event")
    if name not in FAILED and not (name == "mold-unfit" and load == "mold"):
        return None
    place = "the mold" if event.get("slot") == MOLD else f"slot {event.get('slot')}"
    if name == "spawn-failed":
        text = f"{place}: {event.get('reason')}"
    elif name == "mold-unfit":
        hazards = "; ".join(map(str, event.get("hazards") or ()))
        text = f"{place}: no worker can be forked from the application: {hazards}"
    else:
        step = f" in step {event['step']}" if event.get("step") else ""
        text = f"{place}: the load failed{step}: {event.get('type')}: {event.get('message')}"
    return Outcome("failed", text, event)


def outcome_of(take: Callable[[Event], Outcome | None], events: Iterable[Event]) -> Outcome | None:
    """Return the outcome after these events; None if the request is still being carried out."""
    return next((outcome for event in events if (outcome := take(event)) is not None), None)
