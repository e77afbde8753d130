"""Events of the journal as sentences, for people. Pure. `tables.event_line` has the raw form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django_workerguard.config.text import in_megabytes, plain
from django_workerguard.policy.reason import Killer
from django_workerguard.report.tables import span

Event = Mapping[str, Any]
KILLERS = {killer.value: killer.text for killer in Killer}
MOLD = 0  # the slot of the mold's events


def sentence(event: Event) -> str:
    """Return what an event says, in words. An event of an unknown name, or with damaged fields, is named as it is."""
    name = str(event.get("event"))
    write = SENTENCES.get(name)
    try:
        text = write(event) if write is not None else name
    except (LookupError, TypeError, ValueError, OverflowError):
        text = name
    return " ".join(plain(text).split())


def _place(event: Event) -> str:
    slot = event.get("slot")
    if slot is None:
        return "The stand-in"
    return "The mold" if slot == MOLD else f"Slot {slot}"


def _worker(event: Event) -> str:
    pid = f" (pid {event['pid']})" if event.get("pid") else ""
    return f"The mold{pid}" if event.get("slot") == MOLD else f"Slot {event.get('slot')}: worker{pid}"


def _why(event: Event) -> str:
    return f": {event['reason']}" if event.get("reason") else ""


def _error(event: Event) -> str:
    message = f": {event['message']}" if event.get("message") else ""
    step = f" in step {event['step']}" if event.get("step") else ""
    return f"{step}: {event.get('type') or 'unknown'}{message}"


def _seconds(event: Event, field: str) -> str:
    seconds = float(event.get(field) or 0)
    return span(seconds) if seconds >= 60 else f"{seconds:.1f} s"


def _ready(event: Event) -> str:
    counted = f" ({event['ready']} of {event['target']} ready)" if event.get("target") else ""
    return f"{_worker(event)} is ready after {_seconds(event, 'load_seconds')}{counted}"


def _spawned(event: Event) -> str:
    mold = f", forked from the mold (pid {event['mold']})" if event.get("mold") else ""
    return f"{_worker(event)} was started{mold}{_why(event)}"


def _views(event: Event) -> str:
    named = event.get("views") or []
    return f"; most was kept by {', '.join(map(str, named))}" if named else ""


def _exited(event: Event) -> str:
    killer = KILLERS.get(str(event.get("by")), "")
    why = f" ({event['reason']})" if event.get("reason") else f" ({killer})" if killer else ""
    parts = [f"after {span(float(event['lived']))}"] if event.get("lived") else []
    if event.get("requests"):
        parts.append(f"{event['requests']} requests")
    if event.get("rss_bytes"):
        parts.append(in_megabytes(int(event["rss_bytes"])))
    return f"{_worker(event)} ended: {event.get('end')}{why}{'; ' if parts else ''}{', '.join(parts)}"


def _back_off(event: Event) -> str:
    failures = event.get("failures")
    tries = "1 failed load" if failures == 1 else f"{failures} failed loads in a row"
    return f"{_place(event)} is tried again in {_seconds(event, 'seconds')}, after {tries}"


def _no_room(event: Event) -> str:
    place = _place(event) if event.get("slot") else "The mold"
    missing = in_megabytes(int(event.get("missing_bytes") or 0))
    return f"{place} waits for memory: {missing} are missing; it is tried even so in {_seconds(event, 'next_try')}"


def _asked(event: Event) -> str:
    by = event.get("by_user") or f"uid {event.get('by_uid')}"
    refused = f", and was refused: {event['refused']}" if event.get("refused") else ""
    return f"{by} asked for {event.get('do')}{refused}"


def _slow(event: Event) -> str:
    return (
        f"{_worker(event)} has served {_request(event)} for {_seconds(event, 'age')}, and goes on"
        f"{f', now in {where}' if (where := event.get('stack')) else ''}"
    )


def _lost(event: Event) -> str:
    return f"{_worker(event)} ended with {_request(event)} in hand, after {_seconds(event, 'age')} ({event.get('cause')})"


def _request(event: Event) -> str:
    view = f" ({event['view']})" if event.get("view") else ""
    return f"{event.get('method')} {event.get('path')}{view}"


def _again(event: Event) -> str:
    return f" It is tried again in {_seconds(event, 'next_try')}" if event.get("next_try") else ""


def _retry(event: Event) -> str:
    return f"it is started again in {_seconds(event, 'next_try')}"


SENTENCES: Mapping[str, Callable[[Event], str]] = {
    "started": lambda e: f"The server listens, with a target of {e.get('target')} workers",
    "reload": lambda e: f"A reload began generation {e.get('generation')}, requested by {e.get('by')}",
    "reload-refused": lambda e: f"A reload was refused, and nothing has changed{_why(e)}{_again(e)}",
    "frozen": lambda e: (
        f"Generation {e.get('generation')} cannot be loaded, and the one before continues to serve{_error(e)}"
    ),
    "thawed": lambda e: f"Generation {e.get('generation')} is no longer frozen",
    "reloaded": lambda e: f"The reload is done: every worker is of generation {e.get('generation')}",
    "scaled": lambda e: f"The target is now {e.get('target')}, requested by {e.get('by')}",
    "asked": _asked,
    "restored": lambda e: f"Another process removed {e.get('path')}, and the server made it again",
    "lost": lambda e: (
        f"Another process removed {e.get('path')}, and the server cannot make it again{_why(e)}"
    ),
    "monitor-exited": lambda e: f"The monitor (pid {e.get('pid')}) ended: {e.get('end')}; {_retry(e)}",
    "monitor-failed": lambda e: f"The monitor could not be started{_why(e)}; {_retry(e)}",
    "stopping": lambda e: f"The server was asked to stop{' at once' if e.get('quick') else ''}",
    "gave-up": lambda e: f"The server ends{_why(e)}",
    "halted": lambda e: f"The arbiter ends with exit code {e.get('exit_code')}{_why(e)}",
    "spawned": _spawned,
    "spawn-failed": lambda e: f"{_place(e)}: no process could be started{_why(e)}",
    "ready": _ready,
    "load-failed": lambda e: f"{_worker(e)} could not load{_error(e)}",
    "back-off": _back_off,
    "no-room": _no_room,
    "retiring": lambda e: f"{_worker(e)} was asked to leave{_why(e)}{_views(e)}",
    "aborted": lambda e: f"{_worker(e)} is ended with a dump of its stacks{_why(e)}",
    "killed": lambda e: f"{_worker(e)} was killed{_why(e)}{_views(e)}",
    "not-ended": lambda e: (
        f"{_worker(e)} was killed{_why(e)}, but the kernel has not ended it: it counts as ended"
    ),
    "exited": _exited,
    "slow-request": _slow,
    "request-lost": _lost,
    "mold-spawned": lambda e: f"{_worker(e)} was started and loads the application",
    "mold-ready": lambda e: (
        f"{_worker(e)} is ready after {_seconds(e, 'load_seconds')}: workers can be forked from it"
    ),
    "not-forked": lambda e: f"{_place(e)}: the mold has not forked a worker{_why(e)}",
    "mold-unfit": lambda e: (
        f"{_worker(e)} is unfit, so no worker is forked from it: {'; '.join(map(str, e.get('hazards') or ()))}"
    ),
    "duty": lambda e: f"The {e.get('who')} {'answers' if e.get('on') else 'no longer answers'} 503",
    "stand-in-exited": lambda e: f"The stand-in ended: {e.get('end')}; it is started again",
    "keeper": lambda e: f"{_worker(e)} looks after the others from now on",
}
