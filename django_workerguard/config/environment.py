"""The environment with which a process was started, and the later changes to it. Runs anywhere.

A settings module may write to the environment, for example from a ``.env`` file with ``setdefault``. If a reload
inherited these values, it would read the old values for ever.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

Changes = Mapping[str, str | None]  # the new value by name; None: removed

START_ENVIRON = Path("/proc/self/environ")


def as_started(path: Path = START_ENVIRON) -> dict[str, str]:
    """Return the environment with which this process was started.

    A program that sets its title (setproctitle) may have overwritten the kernel's copy. Then return the present
    environment.
    """
    try:
        entries = [entry for entry in path.read_bytes().split(b"\0") if entry]
    except OSError:
        return dict(os.environ)
    if not entries or any(b"=" not in entry for entry in entries):
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def additions(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """Return what a program has set that prepares the environment for the settings.

    What it has removed is not among it: settings may take a secret out, and need it again when they are read again.
    """
    return {name: value for name, value in difference(before, after).items() if value is not None}


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """Return the changes that turn one environment into another."""
    new = {name: value for name, value in after.items() if before.get(name) != value}
    return new | dict.fromkeys(name for name in before if name not in after)


def change(environ: MutableMapping[str, str], changes: Changes) -> None:
    """Set and remove variables."""
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
