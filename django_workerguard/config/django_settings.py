"""Reader of the project's Django settings that never warns or fails. Runs in every process that has Django."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any


def all_settings() -> dict[str, Any]:
    """Return every setting that can be read; {} if Django is not configured yet.

    Reading a setting may warn (it is deprecated) or raise (an empty SECRET_KEY), although the site does not use it.
    """
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return {}
    settings = configuration.settings
    values: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dir(settings):
            if name.isupper():
                with contextlib.suppress(Exception):
                    values[name] = getattr(settings, name)
    return values
