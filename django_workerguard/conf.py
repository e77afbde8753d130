"""Reader of ``settings.WORKERGUARD``, the only one. Runs in every process that has Django."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from django_workerguard.config.gunicorn_settings import setting_names
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.project_path import here
from django_workerguard.config.resolve import SETTING, Layer, resolve, split
from django_workerguard.scoreboard.snapshot import snapshots_of_pools
from django_workerguard.worker.current import current_worker


def settings_layer() -> dict[str, Any]:
    """Return WORKERGUARD unparsed; the server resolves it."""
    layer: dict[str, Any] = getattr(settings, "WORKERGUARD", {})
    return layer


def split_setting() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the guard's raw values and gunicorn's, by field name. Raises ConfigurationError."""
    return split(settings_layer(), setting_names())


@lru_cache(maxsize=1)
def guard_options() -> GuardOptions:
    """Return the guard's options from the settings alone. Raises ConfigurationError."""
    guard, _ = split_setting()
    return resolve([Layer(SETTING, guard)]).options


def current_options() -> GuardOptions:
    """Return the options of the server in a guarded worker, else the options from the settings alone."""
    worker = current_worker()
    return worker.options if worker is not None else guard_options()


def pool_snapshots() -> list[dict[str, Any]]:
    """Return snapshots of this project's guarded Celery pools on this host that this user may read."""
    worker = current_worker()
    about = worker.board.read_about() if worker is not None else {}
    project = str(about.get("project") or here())
    # outside a guarded worker the options come from the settings alone, but the environment has precedence
    run_dir = current_options().run_dir if worker is not None else None
    run_dir = run_dir or os.environ.get("WORKERGUARD_RUN_DIR") or current_options().run_dir
    return snapshots_of_pools(project, run_dir, environ=os.environ, uid=os.geteuid())


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "WORKERGUARD":
        guard_options.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_workerguard.conf")
