"""The one reader of ``settings.WORKERGUARD``. Runs wherever Django does."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from django_workerguard.config.options import GuardOptions
from django_workerguard.config.resolve import SETTING, Layer, resolve, split
from django_workerguard.current import current_worker


def settings_layer() -> dict[str, Any]:
    """Return WORKERGUARD as it is written, for the server to resolve."""
    layer: dict[str, Any] = getattr(settings, "WORKERGUARD", {})
    return layer


def split_setting() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the guard's raw values and gunicorn's, by field name. Raises ConfigurationError."""
    from gunicorn.config import KNOWN_SETTINGS

    return split(settings_layer(), {setting.name for setting in KNOWN_SETTINGS})


@lru_cache(maxsize=1)
def guard_options() -> GuardOptions:
    """Return the guard's options as the settings alone give them. Raises ConfigurationError."""
    guard, _ = split_setting()
    return resolve([Layer(SETTING, guard)]).options


def options_here() -> GuardOptions:
    """Return the guard's options: the server's, from wherever they were set; else the settings' alone."""
    worker = current_worker()
    return worker.options if worker is not None else guard_options()


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "WORKERGUARD":
        guard_options.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_workerguard.conf")
