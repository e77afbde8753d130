"""Start the server in a clean interpreter. Runs in `serve_guarded` and ``python -m django_workerguard serve``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from django_workerguard.config import handover as crossing
from django_workerguard.config.environment import as_started
from django_workerguard.config.handover import Handover
from django_workerguard.errors import ConfigurationError

# by its path: the package may lie where only manage.py has the interpreter look
SERVER = Path(__file__).parents[1] / "server" / "__main__.py"


def launch(handover: Handover) -> NoReturn:
    """Replace this process by the server. Raises ConfigurationError before, never after.

    The server gets the environment that this process was started with, and not what the settings have made of it:
    they are read again, and would find their own old values in place of a changed ``.env`` file.
    """
    fd = crossing.write(handover)
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-P", str(SERVER), "--handover", str(fd)]
    environ = dict(os.environ) if handover.configured else as_started()
    if handover.settings_module:
        environ["DJANGO_SETTINGS_MODULE"] = handover.settings_module
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, environ)  # noqa: S606 - no shell, on purpose


def require_linux() -> None:
    """Raise ConfigurationError if this is not Linux."""
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(
            f"the guarded server runs on Linux only, and this is {sys.platform}",
            hint="Use runserver here; GuardMiddleware works under any server.",
        )
