"""The tiles of the dashboard: a slot, large, middle-sized or small, and the mold. Pure.

They are built without templates, because 64 slots must cost a worker less than five milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from django_workerguard.config.text import duration, in_megabytes, plain
from django_workerguard.dashboard.traceback import own_frame, traceback
from django_workerguard.report.findings import Finding
from django_workerguard.report.tables import how_long
from django_workerguard.values import value_class

Slot = Mapping[str, Any]

# each state has a sign, so that colour is not the only difference
SIGNS = {
    "ready": "✓",
    "loading": "…",
    "retiring": "↘",
    "back-off": "×",
    "no-room": "×",
    "unloaded": "×",
    "empty": "–",
    "unfit": "×",
}
REQUESTS = ("requests", "in hand", "5xx")
TASKS = ("tasks", "running", "failed")


@value_class
class Recent:
    """The last minute and the last hour of a slot.

    ``requests`` and ``errors`` are of the last ``seconds``, a minute or what there is of it; the drawings are of the last
    hour, "" if there are none.
    """

    requests: int = 0
    errors: int = 0
    seconds: int = 0
    drawing: str = ""
    memory_drawing: str = ""
    growth: int = 0  # bytes, since an hour ago or the start of the server


@value_class
class Place:
    """What a tile takes from its server: the time, the URL of slot 0's page ("": slots have no pages), and more.

    A worker of this ``generation`` and ``release`` is like the others, and its tile does not say them.
    """

    now: float
    slot_url: str
    project: str = ""
    labels: Sequence[str] = REQUESTS
    generation: int = 0
    release: str = ""
    rss_limit: int = 0  # bytes, of reload-on-rss or evil-reload-on-rss; 0: none

    @classmethod
    def of(cls, shot: Mapping[str, Any], slot_url: str, *, labels: Sequence[str] = REQUESTS) -> Place:
        """Return the place of the tiles of a snapshot."""
        newest = shot["arbiter"]["generation"]
        release, limit = str(shot["release"]), shot["limits"]["rss_bytes"]
        return cls(shot["at"], slot_url, str(shot["project"]), labels, newest, release, limit)

    def address(self, number: int) -> str:
        """Return the URL of a slot's page, escaped."""
        before, _, after = self.slot_url.rpartition("/0/")
        return escape(f"{before}/{number}/{after}")


def state_of(slot: Slot) -> str:
    return str(slot["state"]).replace("_", "-")


def large(slot: Slot, recent: Recent, place: Place, found: Sequence[Finding] = ()) -> str:
    """Render a slot that is in trouble, with the reason. ``found``: its findings."""
    inside = _why(slot, place) + _facts(slot, recent, place)
    return _tile(slot, place, inside, found, size="wg-large")


def brief(slot: Slot, recent: Recent, place: Place, found: Sequence[Finding] = ()) -> str:
    """Render a slot that is in trouble, with the reason, among many slots."""
    latency = f", p95 {duration(slot['latency']['p95'])}" if slot["latency"] else ""
    memory = f", {in_megabytes(slot['rss_bytes'])}" if slot["rss_bytes"] else ""
    line = f"<p>{_rate(recent)}{latency}, {slot['in_flight']} in hand{_oldest(slot)}{memory}</p>"
    return _tile(slot, place, _why(slot, place) + line, found, size="wg-brief")


def middle(slot: Slot, recent: Recent, place: Place, found: Sequence[Finding] = ()) -> str:
    """Render a slot among a few."""
    return _tile(slot, place, _facts(slot, recent, place), found, size="wg-middle")


def _why(slot: Slot, place: Place) -> str:
    error = slot["last_error"]
    failing = error and (slot["failures"] or slot["not_spawned"] or slot["state"] == "unloaded")
    return _lack(slot) + (_reason(error, place.project) if failing else "")


def _lack(slot: Slot) -> str:
    room = slot["no_room"]
    if not room:
        return ""
    missing, needed = in_megabytes(room["missing_bytes"]), in_megabytes(room["needed_bytes"])
    return f'<p class="wg-why"><strong>waits for memory</strong>: {missing} of {needed} are missing</p>'


def per_second(requests: int, seconds: int) -> str:
    """Return the rate of some requests; "–" if nothing is known yet."""
    return f"{requests / seconds:.1f}/s" if seconds else "–"


def _rate(recent: Recent) -> str:
    if not recent.seconds:
        return "–"
    rate = recent.requests / recent.seconds
    return f"{rate:.0f}/s" if rate >= 1 else f"{rate * 60:.0f}/min"


def small(slot: Slot, recent: Recent, place: Place, found: Sequence[Finding] = ()) -> str:
    """Render a slot among many: its number, its state, its load."""
    number, state = slot["slot"], state_of(slot)
    rate, flag = _rate(recent), _flag(found)
    words = "" if state == "ready" else f' <span class="wg-state">{state}</span>'
    latency = f", p95 {duration(slot['latency']['p95'])}" if slot["latency"] else ""
    memory = in_megabytes(slot["rss_bytes"]) if slot["rss_bytes"] else "no process"
    more = f"; {', '.join(finding.code for finding in found)}" if found else ""
    said = f"Slot {number}: {state}, {rate}{latency}, {slot['in_flight']} in hand, {memory}{more}"
    content = (
        f'<b>{number}</b> <span class="wg-sign" aria-hidden="true">{SIGNS.get(state, "?")}</span>{words}'
        f'<span class="wg-rate">{rate}</span>{recent.drawing}'
    )
    if place.slot_url:
        content = f'<a id="wg-slot-{number}" href="{place.address(number)}" title="{said}" aria-label="{said}">{content}</a>'
    return f'<li class="wg-tile wg-small wg-{state}{flag}">{content}</li>'


def _tile(slot: Slot, place: Place, inside: str, found: Sequence[Finding], *, size: str) -> str:
    number, state = slot["slot"], state_of(slot)
    name = f"Slot {number}"
    if place.slot_url:
        name = f'<a id="wg-slot-{number}" href="{place.address(number)}">{name}</a>'
    flag = _flag(found) or (" wg-flagged" if slot["failures"] else "")
    badges = "".join(f' <span class="wg-badge">{finding.code}</span>' for finding in found)
    generation = f", generation {slot['generation']}" if slot["generation"] != place.generation else ""
    differs = slot["release"] and slot["release"] != place.release
    release = f", release {escape(plain(slot['release']))}" if differs else ""
    return (
        f'<li class="wg-tile {size} wg-{state}{flag}"><h3>{name} <span class="wg-state">'
        f'<span class="wg-sign" aria-hidden="true">{SIGNS.get(state, "?")}</span> {state}</span>{badges}</h3>'
        f'<p class="wg-quiet">{_since(slot, place.now)}{generation}{release}</p>{inside}</li>'
    )


def _flag(found: Sequence[Finding]) -> str:
    if any(finding.severity == "critical" for finding in found):
        return " wg-flagged wg-grave"
    return " wg-flagged" if found else ""


def _since(slot: Slot, now: float) -> str:
    parts = [age] if (age := how_long(slot, now)) else []
    parts.append(f"pid {slot['pid']}" if slot["pid"] else "no process")
    if slot["successor"]:
        parts.append(f"successor {slot['successor']}")
    if slot["loading_for"] is not None:
        step = f" in step {escape(plain(str(slot['step'])))}" if slot["step"] else ""
        parts.append(f"has been loading for {slot['loading_for']:.0f} s{step}")
    if slot["next_try_in"] is not None:
        parts.append(f"next try in {slot['next_try_in']:.0f} s")
    return ", ".join(parts)


def _facts(slot: Slot, recent: Recent, place: Place) -> str:
    """Render the numbers of a slot: of the last minute, and for a pool of tasks since the start."""
    requests, in_hand, errors = place.labels
    if place.labels is TASKS:
        rows = [(requests, str(slot["requests"]), ""), (errors, str(slot["errors_5xx"]), "")]
    else:
        rows = [(requests, per_second(recent.requests, recent.seconds), recent.drawing)]
        if recent.errors:
            rows.append((errors, f"{recent.errors} of {recent.requests}", ""))
    waiting = f", {slot['waiting']} waiting" if slot["waiting"] else ""
    rows.append((in_hand, f"{slot['in_flight']}{waiting}{_oldest(slot)}", ""))
    if slot["latency"]:
        latency = slot["latency"]
        rows.append(("p50, p95", f"{duration(latency['p50'])}, {duration(latency['p95'])}", ""))
    if slot["rss_bytes"]:
        growth = f" ({in_megabytes(recent.growth, sign='+')})" if abs(recent.growth) >= 1 << 20 else ""
        limit = f" of {in_megabytes(place.rss_limit)}" if place.rss_limit else ""
        rows.append(("memory", f"{in_megabytes(slot['rss_bytes'])}{limit}{growth}", recent.memory_drawing))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}{drawing}</dd></div>" for name, value, drawing in rows)
    return f"<dl>{items}</dl>"


def _oldest(slot: Slot) -> str:
    oldest = slot["oldest_request"]
    return f", oldest {duration(oldest['age'])}" if oldest and oldest["age"] >= 1 else ""


def _reason(error: Mapping[str, Any], project: str) -> str:
    step = f" in step {escape(plain(str(error['step'])))}" if error.get("step") else ""
    message = f": {escape(plain(str(error['message'])))}" if error.get("message") else ""
    frame = own_frame(str(error.get("traceback") or ""), project)
    where = f' <span class="wg-where wg-line">{escape(frame)}</span>' if frame else ""
    return f'<p class="wg-why"><strong>{escape(plain(str(error.get("type"))))}</strong>{step}{message}{where}</p>'


def mold_tile(mold: Mapping[str, Any], place: Place) -> str:
    """Render the mold, with its hazards and the traceback of a load that failed."""
    state = state_of(mold)
    pid = f"pid {mold['pid']}" if mold["pid"] else "no process"
    wait = f", next load in {mold['next_try_in']:.0f} s" if mold["next_try_in"] else ""
    load = f"{mold['load_seconds']:.2f} s" if mold["load_seconds"] is not None else "–"
    memory = in_megabytes(mold["rss_bytes"]) if mold["rss_bytes"] else "–"
    facts = (("generation", mold["generation"]), ("forks", mold["forks"]), ("memory", memory), ("load", load))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    hazards = "".join(f'<p class="wg-why">{escape(plain(hazard))}</p>' for hazard in mold["hazards"])
    why, error = _lack(mold), mold["last_error"]
    if error and (mold["failures"] or mold["not_spawned"]):
        text = str(error.get("traceback") or "")
        shown = f'<details open id="wg-mold-error"><summary>Traceback</summary>{traceback(text, place.project)}</details>'
        why += _reason(error, place.project) + (shown if text else "")
    return (
        f'<section class="wg-tiles" aria-label="The mold"><div class="wg-tile wg-middle wg-{state}">'
        f'<h3>Mold <span class="wg-state"><span class="wg-sign" aria-hidden="true">{SIGNS.get(state, "?")}</span> {state}</span></h3>'
        f'<p class="wg-quiet">{how_long(mold, place.now)}, {pid}{wait}</p><dl>{items}</dl>{hazards}{why}</div></section>'
    )
