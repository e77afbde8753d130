"""gunicorn's list of its settings, imported whatever the environment holds. Runs in any process.

gunicorn reads these variables while it is imported, and an empty or wrong number ends the import. The server reads them
itself, and says what is wrong with them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

MODULE = "gunicorn.config"
# what sets gunicorn's defaults in the environment, on platforms that give a port and a size
OF_PLATFORM = {"WEB_CONCURRENCY": "workers", "PORT": "bind", "FORWARDED_ALLOW_IPS": "forwarded_allow_ips"}


def import_settings() -> list[Any]:
    """Return gunicorn's classes of its settings."""
    hidden = {}
    if MODULE not in sys.modules:
        hidden = {name: os.environ.pop(name) for name in OF_PLATFORM if name in os.environ}
    try:
        known: list[Any] = import_module(MODULE).KNOWN_SETTINGS
    finally:
        os.environ.update(hidden)
    return known


def setting_names() -> set[str]:
    """Return the names of gunicorn's settings."""
    return {setting.name for setting in import_settings()}


def of_platform(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return gunicorn's settings that a platform's variables set, by variable. An empty variable is none."""
    values: dict[str, Any] = {
        variable: environ[variable] for variable in OF_PLATFORM if environ.get(variable)
    }
    if "PORT" in values:
        values["PORT"] = [f"0.0.0.0:{values['PORT']}"]
    return {variable: {OF_PLATFORM[variable]: value} for variable, value in values.items()}
