"""Start the server in a clean interpreter. Runs in `serve_guarded` and ``python -m django_workerguard serve``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from django_workerguard.config import handover as handovers
from django_workerguard.config.environment import as_started
from django_workerguard.config.handover import Handover
from django_workerguard.errors import ConfigurationError

# by its path: the package may be in a directory that only manage.py adds to the import path
SERVER = Path(__file__).parents[1] / "server" / "__main__.py"


def launch(handover: Handover) -> NoReturn:
    """Replace this process by the server. Raises ConfigurationError before that.

    The server gets the environment that this process was started with, without the changes of the settings: the server
    reads them again, and would otherwise see their old values instead of a changed ``.env`` file.
    """
    fd = handovers.write(handover)
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
            f"the guarded server runs only on Linux, and this is {sys.platform}",
            hint="Use runserver here; GuardMiddleware works under any server.",
        )
