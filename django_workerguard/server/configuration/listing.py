"""Print the configuration: every value, and where it was set. Runs in place of the arbiter."""

from __future__ import annotations

from typing import Any

from django_workerguard.config.options import OPTIONS
from django_workerguard.errors import DEFAULT
from django_workerguard.server.configuration.guarded_application import REFUSED, GuardedApplication

MASK = "********"


def describe(app: GuardedApplication) -> str:
    """Return a line for each value, secrets masked."""
    lines = [
        (option.name, _guard_value(app, field), app.guard.sources[field]) for field, option in OPTIONS.items()
    ]
    lines += [
        (name.replace("_", "-"), _server_value(app, name), app.sources.get(name, DEFAULT))
        for name in sorted(app.cfg.settings)
        if name not in REFUSED and name != "config"
    ]
    width = max(len(name) for name, _, _ in lines)
    return "\n".join(f"{name:{width}}  {value}  [{source}]" for name, value, source in lines)


def _guard_value(app: GuardedApplication, field: str) -> str:
    value = getattr(app.guard.options, field)
    return MASK if OPTIONS[field].secret and value else _shown(value)


def _server_value(app: GuardedApplication, name: str) -> str:
    value = app.cfg.settings[name].get()
    if name == "raw_env":  # whatever a project sets there, the names are enough
        value = [f"{assignment.partition('=')[0]}={MASK}" for assignment in value]
    return _shown(value)


def _shown(value: Any) -> str:
    if callable(value):
        return f"<{getattr(value, '__qualname__', value)}()>"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
