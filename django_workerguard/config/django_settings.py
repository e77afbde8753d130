"""Reader of the project's Django settings that never warns or fails. Runs in every process that has Django."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import Any


def settings_module(settings: Any) -> str:
    """Return the name of the module that Django has read the settings from; "" if there is none.

    The settings may have removed it from the environment. Django keeps it, and None after ``settings.configure()``.
    """
    return os.environ.get("DJANGO_SETTINGS_MODULE") or str(getattr(settings, "SETTINGS_MODULE", None) or "")


def all_settings() -> dict[str, Any]:
    """Return every setting that can be read, without asking lazy ones; {} if Django is not configured yet.

    Reading a setting may warn (it is deprecated) or raise (an empty SECRET_KEY), although the site does not use it.
    """
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return {}
    settings = configuration.settings
    if issubclass(type(settings), configuration.LazySettings):
        settings = settings._wrapped  # the wrapper asks each value for an attribute when it is read again
    values: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in dir(settings):
            if name.isupper():
                with contextlib.suppress(Exception):
                    values[name] = getattr(settings, name)
    return values
