"""The JSON schema of ``WORKERGUARD``, from the definitions of the options. Runs in docs/generate_reference.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gunicorn.config import KNOWN_SETTINGS

from django_workerguard.config import units
from django_workerguard.config.options import NEED_APP, NEED_APP_SYNONYMS, OPTIONS, Option
from django_workerguard.config.resolve import POOL, POOL_OPTIONS
from django_workerguard.server.configuration.guarded_application import REFUSED

QUANTITY = {"type": ["number", "string"], "minimum": 0, "pattern": r"^\s*\d+(\.\d+)?\s*[A-Za-z]*\s*$"}
WORDS = {"type": ["string", "array"], "items": {"type": "string"}}
TYPES: dict[Callable[[Any], Any], dict[str, Any]] = {
    units.seconds: QUANTITY,
    units.megabytes: QUANTITY,
    units.switch: {"enum": [True, False, 1, 0, *sorted(units.TRUE | units.FALSE)]},
    units.words: WORDS,
    units.dotted: {"type": "string", "pattern": r"^[\w.]+:[\w.]+$"},
}
METAVARS = {
    "N": {"type": ["integer", "string"], "minimum": 0, "pattern": r"^\s*\d+\s*$"},
    "SECONDS,…": {"type": ["string", "array"], "items": {"type": ["number", "string"]}},
    "MODE": {"type": ["integer", "string"]},
    "worker|server|off": {"enum": [*NEED_APP, True, False, 1, 0, *NEED_APP_SYNONYMS]},
}
# gunicorn.conf.py is read before WORKERGUARD
OF_GUNICORN = sorted(
    {setting.name for setting in KNOWN_SETTINGS} - REFUSED.keys() - OPTIONS.keys() - {"config"}
)


def settings_schema() -> str:
    """Return the schema as text."""
    pool = {key: _property(OPTIONS[key.lower()]) for key in sorted(field.upper() for field in POOL_OPTIONS)}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "WORKERGUARD",
        "description": "The setting of django-workerguard.",
        "type": "object",
        "properties": {
            **{option.key: _property(option) for option in OPTIONS.values()},
            POOL: {
                "description": "The options of Celery's pool.",
                "type": "object",
                "properties": pool,
                "additionalProperties": False,
            },
            **{name.upper(): {"description": f"gunicorn's setting {name}"} for name in OF_GUNICORN},
        },
        "additionalProperties": False,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _property(option: Option) -> dict[str, Any]:
    default = {} if option.default is None or option.secret else {"default": option.default}
    return {"description": option.help, **_type(option), **default}


def _type(option: Option) -> dict[str, Any]:
    if known := TYPES.get(option.parse) or METAVARS.get(option.metavar):
        return known
    if option.metavar.endswith(",…"):
        return WORDS
    words = option.metavar.split("|")
    return {"enum": words} if len(words) > 1 and option.metavar.islower() else {"type": "string"}
