"""Start the process that reads the settings, and take its answer. Runs in the starting command and in the arbiter."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

SILENT = {"error": "the process that imported it ended without a word"}


def command(
    module: str, fd: int, path: Sequence[str], *, patience: float = 0.0
) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment of a process that writes what a settings module says to ``fd``.

    It ends by itself after ``patience`` seconds, whoever has started it lives or not; 0: never.
    """
    reader = "django_workerguard.config.read_settings"
    arguments = [sys.executable, "-P", "-m", reader, module, str(fd), str(patience)]
    return arguments, {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def answer(fd: int) -> dict[str, Any]:
    """Return what was written: ``setting`` and ``applications``, or ``error``, or ``wrong``."""
    try:
        told: dict[str, Any] = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    except ValueError:
        return SILENT
    return told
