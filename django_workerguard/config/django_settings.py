"""The project's Django settings as they are, read without a warning or a failure. Runs wherever Django does."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any


def all_settings() -> dict[str, Any]:
    """Return every setting that can be read; none before Django has its settings.

    Reading one may warn (it is deprecated) or raise (an empty SECRET_KEY): the sentinel reads it, and not the site.
    """
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return {}
    settings = configuration.settings
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dir(settings):
            if name.isupper():
                with contextlib.suppress(Exception):
                    found[name] = getattr(settings, name)
    return found
