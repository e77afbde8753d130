"""The parts of the dashboard that the page fetches again and again, as HTML. Pure.

They are built without templates, because 64 slots must cost a worker less than five milliseconds.
They have no style and no script, so that a strict Content-Security-Policy works: positions are
attributes of SVG.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from django_workerguard.config.text import duration, in_megabytes, plain
from django_workerguard.report.findings import Finding, assess
from django_workerguard.report.tables import event_line, headlines, span

Snapshot = Mapping[str, Any]

MANY = 16  # with more slots, the slots that have a problem come first
# labels of the counts in a tile
REQUESTS = ("requests", "in flight", "5xx")
TASKS = ("tasks", "running", "failed")


def summary(shot: Snapshot) -> str:
    """Return the state of the server in a line, without values that change all the time, such as its age."""
    findings = assess(shot)
    worst = f"; {findings[0].severity}: {findings[0].code}" if findings else ""
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    return f"{shot['ready']} of {shot['target']} ready, {shot['arbiter']['phase']}{worst}{more}"


def tiles(shot: Snapshot, slot_url: str, recent: Mapping[int, tuple[int, int]] | None = None) -> str:
    """Render the state of the server: its headlines, its findings, and one tile for each slot.

    ``slot_url`` is the URL of slot 0's page; ``recent`` has the requests and errors of the last
    minute, by slot.
    """
    findings = assess(shot)
    worst = findings[0].severity if findings else "well"
    first, second, *_ = (escape(plain(line)) for line in headlines(shot))  # the mold has a tile
    items = "".join(_finding(finding, slot_url) for finding in findings)
    slots = sorted(shot["slots"], key=_is_well) if len(shot["slots"]) > MANY else shot["slots"]
    tile_list = "".join(
        _tile(slot, shot["at"], slot_url, recent=(recent or {}).get(slot["slot"])) for slot in slots
    )
    return (
        f'<p class="wg-headline wg-{worst}" data-wg-events="{shot["events"]}" data-wg-say="{escape(summary(shot))}">{first}</p>'
        f'<p class="wg-quiet">{second}{_release(shot)}</p><ul class="wg-findings">{items}</ul>'
        f'{_mold(shot)}<ol class="wg-tiles">{tile_list}</ol>'
    )


def _is_well(slot: Mapping[str, Any]) -> bool:
    return bool(slot["state"] == "ready" and not slot["failures"] and not slot["suspect"])


SLOW_ENOUGH = 1.0  # seconds after which a request is listed among the oldest: the page's own are younger
OLDEST = 5


def oldest_requests(served: Mapping[str, Any], slot_url: str) -> str:
    """Render the oldest requests of the fleet; "" if each has just begun. ``served``: as of `requests_of_servers`."""
    slow = [request for request in served["requests"] if request["age"] >= SLOW_ENOUGH][:OLDEST]
    if not slow:
        return ""
    rows = "".join(_request(request, slot_url) for request in slow)
    return f'<section aria-label="Oldest requests"><h2>Oldest requests</h2><ul class="wg-requests">{rows}</ul></section>'


def requests_of_slot(served: Mapping[str, Any], number: int) -> str:
    """Render the requests that the workers of a slot serve; "" if there is none."""
    rows = "".join(_request(request, "") for request in served["requests"] if request["slot"] == number)
    return f'<ul class="wg-requests">{rows}</ul>' if rows else ""


def _request(request: Mapping[str, Any], slot_url: str) -> str:
    age = f"{request['age']:.1f} s" if request["age"] < 60 else span(request["age"])
    number = request["slot"]
    where = f', <a href="{_slot_address(slot_url, number)}">slot {number}</a>' if slot_url else ""
    view = f", {escape(request['view'])}" if request["view"] else ""
    return (
        f"<li><strong>{age}</strong> {escape(request['method'])} {escape(request['path'])}{view}{where}</li>"
    )


def pool_tiles(shot: Snapshot) -> str:
    """Render the state of a Celery pool. Its slots have no pages of their own."""
    findings = assess(shot)
    worst = findings[0].severity if findings else "well"
    first, *rest = (escape(plain(line)) for line in headlines(shot))
    items = "".join(_finding(finding, "") for finding in findings)
    tile_list = "".join(_tile(slot, shot["at"], "", labels=TASKS) for slot in shot["slots"])
    return (
        f'<section class="wg-pool"><h2>Celery: {escape(plain(shot["name"]))}</h2>'
        f'<p class="wg-headline wg-{worst}">{first}</p><p class="wg-quiet">{"<br>".join(rest)}{_release(shot)}</p>'
        f'<ul class="wg-findings">{items}</ul><ol class="wg-tiles">{tile_list}</ol></section>'
    )


def _finding(finding: Finding, slot_url: str) -> str:
    text = escape(plain(finding.text))
    if finding.slot is not None and slot_url:
        text = f'<a id="wg-finding-{finding.code}-{finding.slot}" href="{_slot_address(slot_url, finding.slot)}">{text}</a>'
    return f'<li class="wg-{finding.severity}"><strong>{finding.severity}</strong> {text}</li>'


def _release(shot: Snapshot) -> str:
    return f"; release {escape(plain(shot['release']))}" if shot["release"] else ""


def _mold(shot: Snapshot) -> str:
    """Render the mold as a tile; "" if the server has none."""
    mold = shot["mold"]
    if mold is None:
        return ""
    state = mold["state"].replace("_", "-")
    pid = f"pid {mold['pid']}" if mold["pid"] else "no process"
    if mold["next_try_in"]:
        pid += f", next load in {mold['next_try_in']:.0f} s"
    facts = _facts(
        ("generation", mold["generation"]),
        ("forks", mold["forks"]),
        ("memory", in_megabytes(mold["rss_bytes"]) if mold["rss_bytes"] else "–"),
        ("load", _seconds(mold["load_seconds"])),
    )
    hazards = "".join(f'<p class="wg-why">{escape(plain(hazard))}</p>' for hazard in mold["hazards"])
    return (
        f'<section class="wg-tiles" aria-label="The mold"><div class="wg-tile wg-{state}">'
        f'<h3>Mold <span class="wg-state">{state}</span></h3>'
        f'<p class="wg-quiet">for {span(shot["at"] - mold["since"])}; {pid}</p>{facts}{hazards}</div></section>'
    )


def _facts(*facts: tuple[str, object]) -> str:
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f"<dl>{items}</dl>"


def _seconds(seconds: float | None) -> str:
    return f"{seconds:.2f} s" if seconds is not None else "–"


def _tile(
    slot: Mapping[str, Any],
    now: float,
    slot_url: str,
    *,
    labels: tuple[str, str, str] = REQUESTS,
    recent: tuple[int, int] | None = None,
) -> str:
    number = slot["slot"]
    state = slot["state"].replace("_", "-")
    age = span(now - slot["since"]) if slot["since"] else "–"
    requests, errors = slot["requests"], slot["errors_5xx"]
    last_minute = f", {recent[1]} of {recent[0]} in the last minute" if recent is not None and errors else ""
    memory = in_megabytes(slot["rss_bytes"]) if slot["rss_bytes"] else "–"
    pid = f"pid {slot['pid']}" if slot["pid"] else "no process"
    if slot["successor"]:
        pid += f", successor {slot['successor']}"
    if slot["next_try_in"] is not None:
        pid += f", next try in {slot['next_try_in']:.0f} s"
    error = slot["last_error"]
    why = (
        f'<p class="wg-why">{escape(plain(str(error.get("type"))))}</p>' if error and slot["failures"] else ""
    )
    times = [("p50, p95, p99", ", ".join(map(duration, slot["latency"].values())))] if slot["latency"] else []
    facts = _facts(
        ("generation", slot["generation"]),
        (labels[0], requests),
        (labels[1], slot["in_flight"]),
        ("memory", memory),
        ("load", _seconds(slot["load_seconds"])),
        (labels[2], f"{errors}{last_minute}"),
        *times,
        ("release", escape(plain(slot["release"])) or "–"),
    )
    suspect = ' <span class="wg-warning">suspect</span>' if slot["suspect"] else ""
    name = f"Slot {number}"
    if slot_url:
        name = f'<a id="wg-slot-{number}" href="{_slot_address(slot_url, number)}">{name}</a>'
    return (
        f'<li class="wg-tile wg-{state}"><h3>{name} <span class="wg-state">{state}</span>{suspect}</h3>'
        f'<p class="wg-quiet">for {age}; {pid}</p>{facts}{why}</li>'
    )


def _slot_address(slot_url: str, number: int) -> str:
    before, _, after = slot_url.rpartition("/0/")
    return escape(f"{before}/{number}/{after}")


def event_list(events: Iterable[Mapping[str, Any]]) -> str:
    """Render events, one line for each."""
    return "".join(f"<li>{escape(event_line(event))}</li>" for event in events)
