"""The guard of Celery's prefork pool. Runs in Celery's worker. Needs the extra ``celery``.

One line in the project's ``celery.py``::

    app = Celery("mysite")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    guard(app)

or one setting, ``CELERY_WORKER_POOL = "django_workerguard.contrib.celery.prefork:TaskPool"``. With the
line, `celery inspect guard` knows its name everywhere, and a pool that cannot be guarded is reported.
Its options lie in ``WORKERGUARD["CELERY"]``, which inherits the rest.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import signals

from django_workerguard.contrib.celery import remote_control  # noqa: F401 - registers them
from django_workerguard.contrib.celery.versions import require_supported

UNGUARDED = (
    "workerguard guards Celery's prefork pool, and the pool of this worker is %s: its tasks run without a verified load, "
    "without retries of a failed load and without recycling. The web workers under serve_guarded are guarded as before."
)
PREFORK = ("prefork", "processes", "celery.concurrency.prefork:TaskPool")

logger = logging.getLogger("celery.workerguard")


def guard(app: Any) -> None:
    """Have the workers of a Celery app use the guarded prefork pool wherever they would use Celery's own.

    Any other pool (solo, threads, gevent, eventlet) stays, and a warning says so. A Celery that
    is not supported ends the worker with exit code 2 before it takes a task.
    """

    def choose(sender: Any, **_: Any) -> None:
        if _is_of(sender, app) and _name_of(sender.pool_cls) in PREFORK:
            require_supported()
            from django_workerguard.contrib.celery.prefork import TaskPool

            sender.pool_cls = TaskPool

    def warn(instance: Any, **_: Any) -> None:
        pool = _name_of(instance.pool_cls)
        if _is_of(instance, app) and "workerguard" not in pool:
            logger.warning(UNGUARDED, pool)

    signals.worker_init.connect(choose, weak=False, dispatch_uid=f"workerguard.{id(app)}")
    signals.celeryd_after_setup.connect(warn, weak=False, dispatch_uid=f"workerguard.{id(app)}")


def _is_of(worker: Any, app: Any) -> bool:
    return _unwrapped(getattr(worker, "app", None)) is _unwrapped(app)


def _unwrapped(app: Any) -> Any:
    """Return the app behind a proxy such as ``current_app``."""
    return app._get_current_object() if hasattr(app, "_get_current_object") else app


def _name_of(pool: Any) -> str:
    """Return a pool's name, however it was chosen: its alias, its path or its class."""
    if isinstance(pool, str):
        return pool
    name = f"{pool.__module__}:{pool.__qualname__}"
    return name if name in PREFORK or "workerguard" in name else pool.__module__.rpartition(".")[2]
