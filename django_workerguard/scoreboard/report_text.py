"""Make the report of a load and the description of a server fit into their regions of the scoreboard. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MOST_HAZARDS = 20  # in a report that is too long
KEEP = {
    "traceback": 2000,
    "message": 500,
}  # bytes of the texts of an error that are left, before steps are dropped
LIMITS = (1000, 200, 40)  # characters of each text of a report that is still too long
MOST_ITEMS = 20  # of each list in it
LAST_RESORT = 40  # characters


def fit(report: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Shorten a report until its JSON has at most ``room`` bytes: its hazards and its error first, then its oldest steps.

    What is small stays: the current step above all, because a hang has no other evidence.
    """
    fitted = dict(report)
    if size(fitted) <= room:
        return fitted
    if "hazards" in fitted:
        fitted["hazards"] = _first(fitted["hazards"])
    if isinstance(fitted.get("error"), dict):
        fitted["error"] = _shortened(fitted["error"], size(fitted) - room)
    steps = fitted.get("steps", [])
    for limit in (None, *LIMITS):
        small = {key: _bounded(value, limit) for key, value in fitted.items() if key != "steps"}
        small["steps"] = _newest(steps, room - size({**small, "steps": []}))
        if size(small) <= room:
            return small
    error = fitted.get("error")
    texts = (
        {"error": {key: str(error.get(key))[:LAST_RESORT] for key in ("type", "message")}} if error else {}
    )
    return {"step": _bounded(fitted.get("step"), LAST_RESORT), "steps": [], **texts}


def fit_about(about: Mapping[str, Any], room: int) -> dict[str, Any]:
    """Shorten the description of a server until its JSON has at most ``room`` bytes: its texts and its list of addresses."""
    for limit in (None, *LIMITS):
        fitted: dict[str, Any] = _bounded(dict(about), limit)
        if size(fitted) <= room:
            return fitted
    return {**fitted, "bind": []}


def size(value: Any) -> int:
    """Return the bytes of a value as the scoreboard holds it."""
    return len(as_json(value))


def as_json(value: Any) -> bytes:
    """Return a value as the scoreboard holds it: JSON in ASCII, without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def _first(hazards: Sequence[str]) -> list[str]:
    shown = [hazard[:200] for hazard in hazards[:MOST_HAZARDS]]
    return [*shown, f"and {len(hazards) - len(shown)} more"] if len(hazards) > len(shown) else shown


def _shortened(error: Mapping[str, Any], excess: int) -> dict[str, Any]:
    shortened = dict(error)
    for field, keep in KEEP.items():
        text = str(shortened.get(field, ""))
        encoded = size(text)
        if excess > 0 and encoded > keep:
            shortened[field] = _end(text, max(keep, encoded - excess))
            excess -= encoded - size(shortened[field])
    return shortened


def _end(text: str, room: int) -> str:
    """Return the end of a text whose JSON must have at most ``room`` bytes; a character may take six."""
    end = text
    while (encoded := size(end)) > room:
        end = "…" + end[len(end) - int(len(end) * 0.9 * room / encoded) :]
    return end


def _newest(steps: Sequence[Any], room: int) -> list[Any]:
    """Return the newest steps that have room."""
    kept = len(steps)
    while kept and (room := room - size(steps[kept - 1]) - 1) >= 0:
        kept -= 1
    return list(steps[kept:])


def _bounded(value: Any, limit: int | None) -> Any:
    """Return a value whose texts are not longer than ``limit`` and whose lists are short; None: the whole value."""
    if limit is None:
        return value
    match value:
        case str():
            return value if len(value) <= limit else f"{value[:limit]}…"
        case list():
            return [_bounded(item, limit) for item in value[:MOST_ITEMS]]
        case dict():
            return {key: _bounded(item, limit) for key, item in value.items()}
        case _:
            return value
