"""What a worker tells of its load, made safe to read: a process that went wild may have written it. Pure."""

from __future__ import annotations

from typing import Any

TEXTS = ("type", "message", "traceback")
SKIPPED = ("part", "type", "message")
NUMBERS = ("seconds", "peak_bytes", "retained_bytes", "threads_left", "sockets_left")
LARGEST = 2.0**53  # what JSON carries whole, and more than any of these can be


def clean(report: Any) -> dict[str, Any]:
    """Return a report of the right form whatever was written: ``step``, ``steps``, ``outdated`` and, if there is one, ``error``."""
    if not isinstance(report, dict):
        return {}
    cleaned = {
        "step": _text_or_none(report.get("step")),
        "steps": [_step(step) for step in _list(report.get("steps")) if isinstance(step, dict)],
        "outdated": [str(name) for name in _list(report.get("outdated"))],
    }
    error = report.get("error")
    return {**cleaned, "error": _error(error)} if isinstance(error, dict) else cleaned


def _step(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": str(step.get("name", "")),
        **{key: _number(step.get(key)) for key in NUMBERS},
        "shareable": step.get("shareable") is True,
        "left": [str(name) for name in _list(step.get("left"))],
        "skipped": [
            {key: str(part.get(key) or "") for key in SKIPPED}
            for part in _list(step.get("skipped"))
            if isinstance(part, dict)
        ],
    }


def _error(error: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: str(error.get(key) or "") for key in TEXTS},
        "step": _text_or_none(error.get("step")),
        "at": _number(error.get("at")),
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if 0 <= value <= LARGEST else 0
