"""The parts of the dashboard that are fetched again and again, as HTML. Pure.

Written by hand and not by templates: at 64 slots these must cost a worker less than five
milliseconds. No style and no script in them, so that a strict Content-Security-Policy holds:
what lies where is said in SVG's own attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from django_workerguard.config.text import megabytes, plain
from django_workerguard.report.findings import Finding, assess
from django_workerguard.report.tables import event_line, headlines, span

Snapshot = Mapping[str, Any]

MANY = 16  # slots from which those that are not well come first
REQUESTS = ("requests", "in flight", "5xx")
TASKS = ("tasks", "running", "failed")


def said(shot: Snapshot) -> str:
    """Say how the server stands without anything that changes by itself, such as its age."""
    found = assess(shot)
    worst = f"; {found[0].severity}: {found[0].code}" if found else ""
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{shot['ready']} of {shot['target']} ready, {shot['arbiter']['phase']}{worst}{more}"


def tiles(shot: Snapshot, slot_url: str, recent: Mapping[int, tuple[int, int]] | None = None) -> str:
    """Render how the server stands: its headlines, what is wrong, and a tile a slot.

    ``slot_url`` is the address of slot 0's page; ``recent`` the requests and errors of the last
    minute, by slot.
    """
    found = assess(shot)
    worst = found[0].severity if found else "well"
    first, second = (escape(plain(line)) for line in headlines(shot))
    findings = "".join(_finding(finding, slot_url) for finding in found)
    slots = sorted(shot["slots"], key=_is_well) if len(shot["slots"]) > MANY else shot["slots"]
    shown = "".join(
        _tile(slot, shot["at"], slot_url, recent=(recent or {}).get(slot["slot"])) for slot in slots
    )
    return (
        f'<p class="wg-headline wg-{worst}" data-wg-events="{shot["events"]}" data-wg-say="{escape(said(shot))}">{first}</p>'
        f'<p class="wg-quiet">{second}'
        f'{_release(shot)}</p><ul class="wg-findings">{findings}</ul><ol class="wg-tiles">{shown}</ol>'
    )


def _is_well(slot: Mapping[str, Any]) -> bool:
    return bool(slot["state"] == "ready" and not slot["failures"] and not slot["suspect"])


def pool_tiles(shot: Snapshot) -> str:
    """Render how a pool of Celery's stands: as a server, but without pages of its slots."""
    found = assess(shot)
    worst = found[0].severity if found else "well"
    first, second = (escape(plain(line)) for line in headlines(shot))
    findings = "".join(_finding(finding, "") for finding in found)
    shown = "".join(_tile(slot, shot["at"], "", of=TASKS) for slot in shot["slots"])
    return (
        f'<section class="wg-pool"><h2>Celery: {escape(plain(shot["name"]))}</h2>'
        f'<p class="wg-headline wg-{worst}">{first}</p><p class="wg-quiet">{second}{_release(shot)}</p>'
        f'<ul class="wg-findings">{findings}</ul><ol class="wg-tiles">{shown}</ol></section>'
    )


def _finding(finding: Finding, slot_url: str) -> str:
    text = escape(plain(finding.text))
    if finding.slot is not None and slot_url:
        text = f'<a id="wg-finding-{finding.code}-{finding.slot}" href="{_slot_address(slot_url, finding.slot)}">{text}</a>'
    return f'<li class="wg-{finding.severity}"><strong>{finding.severity}</strong> {text}</li>'


def _release(shot: Snapshot) -> str:
    return f"; release {escape(plain(shot['release']))}" if shot["release"] else ""


def _tile(
    slot: Mapping[str, Any],
    now: float,
    slot_url: str,
    *,
    of: tuple[str, str, str] = REQUESTS,
    recent: tuple[int, int] | None = None,
) -> str:
    number = slot["slot"]
    state = slot["state"].replace("_", "-")
    age = span(now - slot["since"]) if slot["since"] else "–"
    requests, errors = slot["requests"], slot["errors_5xx"]
    lately = f", {recent[1]} of {recent[0]} in the last minute" if recent is not None and errors else ""
    memory = megabytes(slot["rss_bytes"]) if slot["rss_bytes"] else "–"
    load = f"{slot['load_seconds']:.2f} s" if slot["load_seconds"] is not None else "–"
    pid = f"pid {slot['pid']}" if slot["pid"] else "no process"
    if slot["successor"]:
        pid += f", successor {slot['successor']}"
    if slot["next_try_in"] is not None:
        pid += f", next try in {slot['next_try_in']:.0f} s"
    error = slot["last_error"]
    why = (
        f'<p class="wg-why">{escape(plain(str(error.get("type"))))}</p>' if error and slot["failures"] else ""
    )
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in (
            ("generation", slot["generation"]),
            (of[0], requests),
            (of[1], slot["in_flight"]),
            ("memory", memory),
            ("load", load),
            (of[2], f"{errors}{lately}"),
            ("release", escape(plain(slot["release"])) or "–"),
        )
    )
    suspect = ' <span class="wg-warning">suspect</span>' if slot["suspect"] else ""
    name = f"Slot {number}"
    if slot_url:
        name = f'<a id="wg-slot-{number}" href="{_slot_address(slot_url, number)}">{name}</a>'
    return (
        f'<li class="wg-tile wg-{state}"><h3>{name} <span class="wg-state">{state}</span>{suspect}</h3>'
        f'<p class="wg-quiet">for {age}; {pid}</p><dl>{facts}</dl>{why}</li>'
    )


def _slot_address(slot_url: str, number: int) -> str:
    before, _, after = slot_url.rpartition("/0/")
    return escape(f"{before}/{number}/{after}")


def happened(events: Iterable[Mapping[str, Any]]) -> str:
    """Render events, a line each."""
    return "".join(f"<li>{escape(event_line(event))}</li>" for event in events)
