"""The one reader of ``settings.WORKERGUARD``. Runs wherever Django does."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from django_workerguard.config.options import GuardOptions
from django_workerguard.config.project_path import here
from django_workerguard.config.resolve import SETTING, Layer, resolve, split
from django_workerguard.scoreboard.places import pools_of
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.current import current_worker


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


def current_options() -> GuardOptions:
    """Return the guard's options: the server's, from wherever they were set; else the settings' alone."""
    worker = current_worker()
    return worker.options if worker is not None else guard_options()


def pool_snapshots() -> list[dict[str, Any]]:
    """Look at the guarded pools of this project's Celery workers, on this host, as far as this user may see them."""
    worker = current_worker()
    project = str(worker.board.read_about().get("project", "/")) if worker is not None else here()
    # outside a guarded worker the options are the settings' alone, and the environment is stronger
    run_dir = current_options().run_dir if worker is not None else None
    run_dir = run_dir or os.environ.get("WORKERGUARD_RUN_DIR") or current_options().run_dir
    pools = pools_of(project, run_dir, environ=os.environ, uid=os.geteuid())
    try:
        return [snapshot(pool.board) for pool in pools]
    finally:
        for pool in pools:
            pool.board.close()


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "WORKERGUARD":
        guard_options.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_workerguard.conf")
