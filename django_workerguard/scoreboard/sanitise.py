"""Sanitise the texts on the scoreboard, because a defective worker may have overwritten them. Pure."""

from __future__ import annotations

from typing import Any

TEXTS = ("type", "message", "traceback")
TEXTS_OF_SERVER = ("host", "name", "project", "settings", "worker_class")
SKIPPED = ("part", "type", "message")
NUMBERS = ("seconds", "peak_bytes", "retained_bytes", "threads_left", "sockets_left")
MAX_NUMBER = 2.0**53  # the largest integer that JSON readers keep exact; larger than any valid number here


def clean_about(about: Any) -> dict[str, Any]:
    """Return a server's description in a valid form: texts that can be encoded, a list of addresses, a pid."""
    if not isinstance(about, dict):
        return {}
    bind, replaces = about.get("bind"), about.get("replaces")
    texts = {key: text(about[key]) for key in TEXTS_OF_SERVER if key in about}
    return {
        **{key: value for key, value in about.items() if isinstance(value, bool | int | float)},
        **texts,
        "bind": [text(address) for address in bind] if isinstance(bind, list) else [],
        "replaces": replaces if isinstance(replaces, int) else 0,
    }


def text(value: Any) -> str:
    """Return a value as a text that can be encoded: without lone surrogates."""
    return str(value).encode(errors="replace").decode()


def clean_report(report: Any) -> dict[str, Any]:
    """Return a report in a valid form, from any input.

    Its keys are ``step``, ``steps``, ``threads``, ``outdated``, ``hazards`` and, if present, ``error``.
    """
    if not isinstance(report, dict):
        return {}
    cleaned = {
        "step": _text_or_none(report.get("step")),
        "threads": _text_or_none(report.get("threads")),
        "steps": [_step(step) for step in _list(report.get("steps")) if isinstance(step, dict)],
        "outdated": [text(name) for name in _list(report.get("outdated"))],
        "hazards": [text(name) for name in _list(report.get("hazards"))],
    }
    error = report.get("error")
    return {**cleaned, "error": _error(error)} if isinstance(error, dict) else cleaned


def _step(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": text(step.get("name", "")),
        **{key: _number(step.get(key)) for key in NUMBERS},
        "shareable": step.get("shareable") is True,
        "left": [text(name) for name in _list(step.get("left"))],
        "skipped": [
            {key: text(part.get(key) or "") for key in SKIPPED}
            for part in _list(step.get("skipped"))
            if isinstance(part, dict)
        ],
    }


def _error(error: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: text(error.get(key) or "") for key in TEXTS},
        "step": _text_or_none(error.get("step")),
        "at": _number(error.get("at")),
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_or_none(value: Any) -> str | None:
    return None if value is None else text(value)


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if 0 <= value <= MAX_NUMBER else 0
