"""The sentinel: verifies that a worker is loaded. Runs in the worker, at its start.

The server imports it by its dotted name, and only in the child, because it imports Django.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from django_workerguard.config.redact import describe_failure
from django_workerguard.sentinel.fork_safety import Baseline, hazards
from django_workerguard.sentinel.measurement import measure_step
from django_workerguard.sentinel.settle import resume, settle
from django_workerguard.sentinel.steps import load, load_own, load_shared, load_steps, release
from django_workerguard.sentinel.view_names import name_views

__all__ = [
    "Baseline",
    "announce_loaded",
    "announce_retiring",
    "describe_failure",
    "finish_request",
    "hazards",
    "load",
    "load_own",
    "load_shared",
    "load_steps",
    "measure_step",
    "name_views",
    "release",
    "resume",
    "settle",
    "watch_memory_errors",
]


def announce_loaded(worker: Any) -> None:
    """Send the signal `worker_loaded`; if a receiver raises, Django logs the error and the worker goes on."""
    from django_workerguard.signals import worker_loaded

    worker_loaded.send_robust(type(worker), worker=worker)


def announce_retiring(worker: Any) -> None:
    """Send the signal `worker_retiring`; if a receiver raises, Django logs the error and the worker goes on."""
    from django_workerguard.signals import worker_retiring

    worker_retiring.send_robust(type(worker), worker=worker)


async def finish_request() -> None:
    """Send Django's signal `request_finished` for a request that was cancelled."""
    from django.core.handlers.asgi import ASGIHandler
    from django.core.signals import request_finished

    await request_finished.asend_robust(sender=ASGIHandler)


def watch_memory_errors(count: Callable[[], None]) -> None:
    """Call ``count`` for each MemoryError that Django turns into a response 500, because the server never sees it."""
    from django.core.signals import got_request_exception

    def check(**_: Any) -> None:
        if isinstance(sys.exc_info()[1], MemoryError):
            count()

    got_request_exception.connect(check, weak=False, dispatch_uid="workerguard")
