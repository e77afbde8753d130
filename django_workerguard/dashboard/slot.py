"""The data of a slot's page. Runs in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_workerguard.config.text import in_megabytes, plain
from django_workerguard.dashboard.fragments import (
    event_list,
    memory_of_views,
    remedy_html,
    requests_of_slot,
    worst_of,
)
from django_workerguard.dashboard.snapshots import events_of, recent_of
from django_workerguard.dashboard.svg import waterfall
from django_workerguard.dashboard.tiles import SIGNS, per_second, state_of
from django_workerguard.dashboard.traceback import traceback
from django_workerguard.probe.memory import memory_of
from django_workerguard.report.findings import assess
from django_workerguard.report.tables import quantiles, state_since, utc
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.in_hand import requests_of_servers
from django_workerguard.scoreboard.view_memory import memory_of_servers

EVENTS = 30  # shown


def slot_context(board: Board, slot: Mapping[str, Any], shot: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page of a slot shows."""
    number = slot["slot"]
    failed = slot["last_error"] or {}
    findings = [finding for finding in assess(shot) if finding.slot == number]
    worst = worst_of(findings)
    state = state_of(slot)
    recent = recent_of(board, number)
    return {
        "slot": slot,
        "state": state,
        "sign": SIGNS.get(state, "?"),
        "since": state_since(slot, shot["at"]).removeprefix(state),
        "worst": worst,
        "summary": f"slot {number} is {state}" + (f"; {worst}: {findings[0].code}" if findings else ""),
        "tab": plain(f"slot {number} {state} – {shot['name']}"),
        "server": plain(f"{shot['name']} on {shot['host']}"),
        "latency": quantiles(slot["latency"]) if slot["latency"] else "",
        "recent": recent,
        "rate": per_second(recent.requests, recent.seconds),
        "memory": _memory(slot),
        "growth": in_megabytes(recent.growth, sign="+") if abs(recent.growth) >= 1 << 20 else "",
        "served": requests_of_slot(requests_of_servers([board]), number),
        "views": memory_of_views(memory_of_servers([board], slot=number)),
        "findings": [(finding, remedy_html(finding.remedy)) for finding in findings],
        "waterfall": waterfall(slot["load_steps"]),
        "failed_waterfall": waterfall(failed.get("steps") or []),
        "traceback": traceback(text, str(shot["project"]))
        if (text := str(failed.get("traceback") or ""))
        else "",
        # an error of long ago is not in the way
        "is_failing": bool(slot["failures"] or slot["not_spawned"] or slot["state"] != "ready"),
        "error_at": f"{utc(failed.get('at', 0)):%Y-%m-%d %H:%M:%S}",
        "events": event_list(events_of(board, number, at_most=EVENTS)),
    }


def _memory(slot: Mapping[str, Any]) -> str:
    """Return the memory that the rules of rss count, and what of the worker's memory is private and shared."""
    if not slot["rss_bytes"]:
        return "–"
    text = in_megabytes(slot["rss_bytes"]) + (" private" if slot["mold"] else "")
    parts = memory_of(slot["pid"])
    if not parts.private:
        return text
    shared = f"{in_megabytes(parts.shared)} shared"
    return f"{text}, {shared}" if slot["mold"] else f"{text}: {in_megabytes(parts.private)} private, {shared}"
