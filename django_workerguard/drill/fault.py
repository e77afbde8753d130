"""The fault of a load, made on demand. Runs in a worker of the drill's server, as its last load probe.

The drill writes the kind of the fault and how often it is to happen into a file; each load that fails by it adds a line to
another. The environment says where the files are, so this probe does nothing in any other server.
"""

from __future__ import annotations

import contextlib
import os
import time

DIRECTORY = "DRILL_FAULTS"  # the environment variable that names the directory
KINDS = ("memory", "exception", "hang")


class DrillError(Exception):
    """The fault of the drill; nothing is wrong with the site."""


def probe() -> None:
    """Fail as the file says, if there is one."""
    directory = os.environ.get(DIRECTORY, "")
    kind = _take(directory) if directory else ""
    match kind:
        case "memory":
            raise MemoryError("a fault of the drill, as if memory were short")
        case "exception":
            raise DrillError("a fault of the drill, as if the new code were broken")
        case "hang":
            time.sleep(3600)


def mark_loaded() -> None:
    """Note that this process has loaded. Plain gunicorn cannot say it itself."""
    with contextlib.suppress(OSError), open(f"{os.environ[DIRECTORY]}/loaded.{os.getpid()}", "x"):
        pass


def nothing(_server: object) -> None:
    """Replace a hook of the server that has one argument."""


def nothing_of_three(_server: object, _new: object, _old: object) -> None:
    """Replace a hook of the server that has three arguments."""


def _take(directory: str) -> str:
    """Return the kind of the fault, and count its use; "" if there is none, or if it has happened often enough."""
    try:
        with open(f"{directory}/fault") as file:
            kind, times = file.read().split()
        with open(f"{directory}/taken", "a+") as taken:
            taken.seek(0)
            if len(taken.readlines()) >= int(times):
                return ""
            taken.write(f"{os.getpid()}\n")
            return kind
    except (OSError, ValueError):
        return ""
