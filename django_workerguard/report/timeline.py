"""The life of every slot in the last hour, from the journal. Pure.

New events are added as the journal grows, so that each event is processed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django_workerguard.policy.reason import Killer
from django_workerguard.scoreboard.journal import LATEST
from django_workerguard.values import value_class

WINDOW = 3600.0  # seconds
LONGEST_TEXT = 200
LIFE_EVENTS = ("spawned", "ready", "load-failed", "retiring", "exited")  # of a process, in this order

SERVER = 0  # the "slot" of events of the whole server
MOLD = 0  # those of the mold say so, and are drawn with those of the server
ORDINARY = ("stop", "newer-mold")  # rules for which a process leaves when all is well

Event = Mapping[str, Any]


KILLERS = {killer.value: killer.text for killer in Killer}


@dataclass(eq=False)
class Life:
    """The life of one process. Times are Unix seconds; None: not yet."""

    slot: int
    pid: int
    generation: int
    spawned: float
    lane: int = 0  # 0 and 1 in turn, so that an incumbent and its successor are drawn apart
    ready: float | None = None
    retiring: float | None = None
    ended: float | None = None

    def spans(self, now: float) -> Iterator[tuple[str, float, float]]:
        """Yield each phase (loading, ready, retiring) with its start and its end."""
        end = self.ended if self.ended is not None else now
        ready = self.ready if self.ready is not None else end
        retiring = self.retiring if self.retiring is not None else end
        yield "loading", self.spawned, min(ready, retiring)
        if self.ready is not None:
            yield "ready", self.ready, retiring
        if self.retiring is not None:
            yield "retiring", self.retiring, end


@dataclass
class Wait:
    """A back-off of a slot."""

    slot: int
    begun: float
    until: float


@value_class
class Mark:
    """An event to be drawn, of a slot or (slot 0) of the server."""

    at: float
    slot: int
    kind: str
    text: str


class Timeline:
    """The lives, waits and marks of the last hour."""

    def __init__(self) -> None:
        self.last_number = 0  # of the last event that was added
        self.lives: list[Life] = []
        self.waits: list[Wait] = []
        self.marks: list[Mark] = []
        self._living: dict[int, Life] = {}
        self._lanes: dict[int, int] = {}
        self._waiting: dict[int, Wait] = {}

    def feed(self, events: Iterable[Event]) -> None:
        """Add events, which must be later than the events added before."""
        for event in events:
            try:
                at = _number(event.get("at", 0))
                if self.last_number and event["number"] > self.last_number + 1:
                    self._end_all(at)
                self._add(event, str(event.get("event")), at, int(event.get("slot", 0)))
            except (TypeError, ValueError, OverflowError):
                continue  # a damaged event
            finally:
                self.last_number = event["number"]

    def forget(self, now: float) -> None:
        """Drop lives, waits and marks that ended before the window."""
        oldest = now - WINDOW
        self.lives = [life for life in self.lives if life.ended is None or life.ended >= oldest]
        self.waits = [wait for wait in self.waits if wait.until >= oldest]
        self.marks = [mark for mark in self.marks if mark.at >= oldest]

    def _add(self, event: Event, name: str, at: float, slot: int) -> None:
        life = self._life(event, name, at, slot) if name in LIFE_EVENTS and slot else None
        match name:
            case "ready" if life:
                life.ready = at
            case "retiring" if life:
                life.retiring = life.retiring or at
            case "load-failed" | "exited" if life:
                self._end(life, at)
            case "mold-spawned" if slot in self._waiting:
                self._end_wait(slot, at)
            case "back-off":
                wait = Wait(slot, at, at + _number(event.get("seconds", 0)))
                self.waits.append(wait)
                self._waiting[slot] = wait
        mark = _mark(event, name, at, slot)
        if mark is not None:
            self.marks.append(mark)

    def _life(self, event: Event, name: str, at: float, slot: int) -> Life:
        pid = int(event["pid"])
        life = self._living.get(pid)
        if life is None:
            lived = _number(event.get("lived", 0) or event.get("load_seconds", 0))
            lane = self._lanes[slot] = 1 - self._lanes.get(slot, 1)
            life = Life(slot, pid, int(event.get("generation", 0)), at - lived, lane)
            if name in ("retiring", "exited"):
                life.ready = life.spawned  # the journal no longer has its start
            self._living[pid] = life
            self.lives.append(life)
        if name == "spawned" and slot in self._waiting:
            self._end_wait(slot, at)
        return life

    def _end_wait(self, slot: int, at: float) -> None:
        wait = self._waiting.pop(slot)
        wait.until = max(wait.begun, at)

    def _end_all(self, at: float) -> None:
        """End every life: events were overwritten before they were read, and any of them may have been an end."""
        for life in list(self._living.values()):
            self._end(life, at)

    def _end(self, life: Life, at: float) -> None:
        life.ended = at
        self._living.pop(life.pid, None)


def _number(value: Any) -> float:
    """Return a time or a duration of an event. Raises ValueError for a value that is no time."""
    if not isinstance(value, int | float) or not abs(value) < LATEST:  # nan is not less than anything
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _mark(event: Event, name: str, at: float, slot: int) -> Mark | None:
    """Return the mark of an event; None for an ordinary event."""
    match name:
        case "load-failed":
            step = f" in step {event['step']}" if event.get("step") else ""
            kind, text = "failed", f"load failed{step}: {event.get('type')}: {event.get('message')}"
        case "spawn-failed":
            kind, text = "failed", f"could not be started: {event.get('reason')}"
        case "exited" if event.get("state") != "retiring":
            why = event.get("reason") or KILLERS.get(str(event.get("by")), "")
            kind, text = "died", f"{event.get('end')}{f' ({why})' if why else ''}"
        case "mold-unfit":
            hazards = "; ".join(map(str, event.get("hazards") or ()))
            kind, text = "failed", f"no worker can be forked from it: {hazards}"
        case "retiring" if event.get("rule") not in ORDINARY:
            kind, text = "recycled", str(event.get("reason"))
        case "aborted" | "killed":
            kind, text = "aborted", f"{name}: {event.get('reason')}"
        case "reload":
            kind, text = (
                "reload",
                f"reload: generation {event.get('generation')} begins, requested by {event.get('by')}",
            )
        case "frozen":
            kind, text = "frozen", f"frozen: {event.get('type')}: {event.get('message')}"
        case "reload-refused" | "gave-up":
            kind, text = "failed", f"{name}: {event.get('reason')}"
        case "thawed" | "reloaded":
            kind, text = "reload", f"{name}: generation {event.get('generation')}"
        case "scaled":
            kind, text = "reload", f"scaled to {event.get('target')}, requested by {event.get('by')}"
        case "duty" if event.get("on"):
            kind, text, slot = "failed", f"no worker is loaded: the {event.get('who')} answers 503", SERVER
        case _:
            return None
    if event.get("slot") == MOLD:
        text = f"the mold: {text}"
    return Mark(at, slot, kind, text[:LONGEST_TEXT])
