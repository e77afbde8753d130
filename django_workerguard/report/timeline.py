"""The life of every slot in the last hour, out of the journal. Pure.

The journal is fed in as it grows, so that ten thousand events are looked at once and not at
every look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django_workerguard.scoreboard.journal import LATEST

WINDOW = 3600.0  # seconds
LONGEST_TEXT = 200
OF_LIVES = ("spawned", "ready", "load-failed", "retiring", "exited")  # what a process does, in this order

SERVER = 0  # the slot of what concerns them all

Event = Mapping[str, Any]


@dataclass(eq=False)
class Life:
    """One process: since when it was what. Times are Unix seconds; None: not yet."""

    slot: int
    pid: int
    generation: int
    spawned: float
    lane: int = 0  # 0 and 1 in turn, so that an incumbent and its successor can be told apart
    ready: float | None = None
    retiring: float | None = None
    ended: float | None = None

    def spans(self, now: float) -> Iterator[tuple[str, float, float]]:
        """Yield what it was doing, from when and until when: loading, ready, retiring."""
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


@dataclass(frozen=True)
class Mark:
    """Something that happened at one moment, in a slot or (slot 0) to the server."""

    at: float
    slot: int
    kind: str
    text: str


class Timeline:
    """The lives, waits and marks of the last hour."""

    def __init__(self) -> None:
        self.seen = 0  # the number of the last event that was fed in
        self.lives: list[Life] = []
        self.waits: list[Wait] = []
        self.marks: list[Mark] = []
        self._living: dict[int, Life] = {}
        self._lanes: dict[int, int] = {}
        self._waiting: dict[int, Wait] = {}

    def feed(self, events: Iterable[Event]) -> None:
        """Take in events that come after those which were taken in before."""
        for event in events:
            try:
                at = _number(event.get("at", 0))
                if self.seen and event["number"] > self.seen + 1:
                    self._missed_some(at)
                self._take(event, str(event.get("event")), at, int(event.get("slot", 0)))
            except (TypeError, ValueError, OverflowError):
                continue  # scribbled over: one event less
            finally:
                self.seen = event["number"]

    def forget(self, now: float) -> None:
        """Let go of what ended before the window."""
        oldest = now - WINDOW
        self.lives = [life for life in self.lives if life.ended is None or life.ended >= oldest]
        self.waits = [wait for wait in self.waits if wait.until >= oldest]
        self.marks = [mark for mark in self.marks if mark.at >= oldest]

    def _take(self, event: Event, name: str, at: float, slot: int) -> None:
        life = self._life(event, name, at, slot) if name in OF_LIVES and slot else None
        match name:
            case "ready" if life:
                life.ready = at
            case "retiring" if life:
                life.retiring = life.retiring or at
            case "load-failed" | "exited" if life:
                self._ended(life, at)
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
                life.ready = life.spawned  # its beginning is forgotten
            self._living[pid] = life
            self.lives.append(life)
        if name == "spawned" and slot in self._waiting:
            wait = self._waiting.pop(slot)
            wait.until = max(wait.begun, at)
        return life

    def _missed_some(self, at: float) -> None:
        """Begin anew with who lives: among the events that were overwritten meanwhile may be any end."""
        for life in list(self._living.values()):
            self._ended(life, at)

    def _ended(self, life: Life, at: float) -> None:
        life.ended = at
        self._living.pop(life.pid, None)


def _number(value: Any) -> float:
    """Return a time or a duration of an event. Raises ValueError for what no calendar can write."""
    if not isinstance(value, int | float) or not abs(value) < LATEST:  # nan is not less than anything
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _mark(event: Event, name: str, at: float, slot: int) -> Mark | None:
    """Return what is to be marked of an event; None for the course of things."""
    match name:
        case "load-failed":
            step = f" in step {event['step']}" if event.get("step") else ""
            kind, text = "failed", f"load failed{step}: {event.get('type')}: {event.get('message')}"
        case "spawn-failed":
            kind, text = "failed", f"could not be started: {event.get('reason')}"
        case "exited" if event.get("state") != "retiring":
            by = f" by {event['by']}" if event.get("by") else ""
            kind, text = "died", f"{event.get('end')}{by} {event.get('reason') or ''}".strip()
        case "retiring" if event.get("rule") != "stop":
            kind, text = "recycled", str(event.get("reason"))
        case "aborted" | "killed":
            kind, text = "aborted", f"{name}: {event.get('reason')}"
        case "reload":
            kind, text = (
                "reload",
                f"reload: generation {event.get('generation')} begins, by {event.get('by')}",
            )
        case "frozen":
            kind, text = "frozen", f"frozen: {event.get('type')}: {event.get('message')}"
        case "reload-refused" | "gave-up":
            kind, text = "failed", f"{name}: {event.get('reason')}"
        case "thawed" | "reloaded":
            kind, text = "reload", f"{name}: generation {event.get('generation')}"
        case "scaled":
            kind, text = "reload", f"scaled to {event.get('target')}, by {event.get('by')}"
        case "duty" if event.get("on"):
            kind, text, slot = "failed", f"nobody is loaded: the {event.get('who')} answers 503", SERVER
        case _:
            return None
    return Mark(at, slot, kind, text[:LONGEST_TEXT])
