"""Import a settings module, nothing else, and write what the server needs of it. Runs in a process of its own.

``python -m django_workerguard.config.read_settings MODULE FD SECONDS``. Exit code 0: JSON with
``setting`` and ``applications`` was written; else JSON with ``error``, or with ``wrong`` where the module can be
imported and what it says cannot be handed on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

from django_workerguard.config.handover import applications_of, plain
from django_workerguard.errors import in_short


def main(module: str, fd: int, patience: float) -> int:
    """Write what a module says, within so many seconds; 0: whatever it takes."""
    told: dict[str, Any]
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        settings = import_module(module)
    except BaseException as error:
        told = {"error": in_short(error)}
    else:
        told = _told(settings)
    os.write(fd, json.dumps(told, default=plain).encode())
    return 0 if "setting" in told else 1


def _told(settings: Any) -> dict[str, Any]:
    setting = getattr(settings, "WORKERGUARD", {})
    try:
        json.dumps(setting, default=plain)
    except (TypeError, ValueError) as error:
        return {"wrong": f"it holds a value that cannot be handed to the server: {error}"}
    return {"setting": setting, "applications": applications_of(settings)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
