"""What every page says about the worker that made it. Runs in a worker."""

import os
from typing import Any

from django.http import HttpRequest

from django_workerguard import current_worker


def describe_worker() -> dict[str, Any]:
    """Return who is answering: at least the pid, and under a guard the slot, generation and release."""
    found = current_worker()
    if found is None:
        return {"pid": os.getpid(), "guarded": False}
    return {
        "pid": found.pid,
        "guarded": True,
        "slot": found.slot,
        "generation": found.generation,
        "release": found.release,
    }


def worker(request: HttpRequest) -> dict[str, Any]:
    """Give `worker` to the templates."""
    return {"worker": describe_worker()}
