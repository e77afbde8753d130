"""One value per option out of all the places where it can be set. Pure.

Weakest first: default, ``WORKERGUARD`` in the settings, ``WORKERGUARD`` in gunicorn.conf.py,
``WORKERGUARD_*`` in the environment, the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django_workerguard.config.options import OPTIONS, GuardOptions, Option
from django_workerguard.errors import ConfigurationError

SETTING = 'WORKERGUARD["{key}"]'
CONFIG_FILE = 'WORKERGUARD["{key}"] in {file}'
ENVIRONMENT = "{env} in the environment"
COMMAND_LINE = "{flag} on the command line"
DEFAULT = "default"


@dataclass(frozen=True)
class Layer:
    """Raw values by field name, and how a place spells an option, for messages."""

    spelling: str
    values: Mapping[str, Any]
    file: str = ""

    def where(self, field: str, *, flag: str | None = None) -> str:
        """Say where an option was set; ``flag`` where its name on the command line is another."""
        key = field.upper()
        flag = flag or "--" + field.replace("_", "-")
        return self.spelling.format(key=key, env=f"WORKERGUARD_{key}", flag=flag, file=self.file)


@dataclass(frozen=True)
class Resolved:
    """The options, and where each was set."""

    options: GuardOptions
    sources: Mapping[str, str]

    def is_set(self, field: str) -> bool:
        return self.sources[field] != DEFAULT


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Parse and merge layers of the guard's own options, weakest first.

    Raises ConfigurationError, naming the option and where it was set.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(OPTIONS, DEFAULT)
    for layer in layers:
        for field, raw in layer.values.items():
            if field in OPTIONS:
                values[field] = parse(OPTIONS[field], raw, layer.where(field))
                sources[field] = layer.where(field)
    return Resolved(GuardOptions(**values), sources)


def parse(option: Option, raw: Any, where: str) -> Any:
    """Parse one raw value; None means the default. Raises ConfigurationError."""
    if raw is None:
        return option.default
    try:
        return option.parse(raw)
    except ValueError as error:
        problem = "the value is not understood" if option.secret else str(error)
        raise ConfigurationError(problem, option=option.name, where=where) from None


def split(
    setting: Any, server_options: Collection[str], *, where: str = "WORKERGUARD"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a WORKERGUARD dictionary into the guard's values and gunicorn's, by field name.

    Raises ConfigurationError for what is no dictionary and for an unknown key, naming the nearest one.
    """
    if not isinstance(setting, Mapping):
        raise ConfigurationError(
            f"{where} is not a dictionary", hint='Write WORKERGUARD = {"NEED_APP": "worker"}.'
        )
    guard: dict[str, Any] = {}
    server: dict[str, Any] = {}
    for key, value in setting.items():
        field = str(key).lower()
        if key != str(key).upper() or (field not in OPTIONS and field not in server_options):
            raise ConfigurationError(
                f"{key!r} is not an option", where=where, hint=nearest(str(key), server_options)
            )
        (guard if field in OPTIONS else server)[field] = value
    return guard, server


def from_environ(
    environ: Mapping[str, str], server_options: Collection[str]
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the guard's values, gunicorn's values, and the names that are no option.

    An unknown name only warns: Kubernetes injects such names for a service called workerguard.
    """
    guard: dict[str, str] = {}
    server: dict[str, str] = {}
    unknown = []
    for name, value in environ.items():
        field = name.removeprefix("WORKERGUARD_").lower()
        if not name.startswith("WORKERGUARD_"):
            continue
        if field in OPTIONS:
            guard[field] = value
        elif field in server_options:
            server[field] = value
        else:
            unknown.append(name)
    return guard, server, unknown


def nearest(key: str, server_options: Collection[str]) -> str:
    """Return a hint that names the option nearest to a misspelt one."""
    known = [name.upper() for name in (*OPTIONS, *server_options)]
    match = difflib.get_close_matches(key.upper().replace("-", "_"), known, n=1, cutoff=0.6)
    return f"Did you mean {match[0]!r}?" if match else "The reference of options lists them all."
