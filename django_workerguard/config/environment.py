"""The environment as a process was started with it, and what was changed in it since. Runs anywhere.

A settings module may write into the environment, for example from a ``.env`` file with ``setdefault``. If a reload
inherited what the settings have written, it would read the old values for ever.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

Changes = Mapping[str, str | None]  # the new value by name; None: removed

OF_THE_START = Path("/proc/self/environ")


def as_started(path: Path = OF_THE_START) -> dict[str, str]:
    """Return the environment that this process was started with.

    A program that shows a title of its own (setproctitle) may have overwritten the kernel's copy; then it is the
    present environment.
    """
    try:
        entries = [entry for entry in path.read_bytes().split(b"\0") if entry]
    except OSError:
        return dict(os.environ)
    if not entries or any(b"=" not in entry for entry in entries):
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """Return what turns one environment into another."""
    set_anew = {name: value for name, value in after.items() if before.get(name) != value}
    return set_anew | dict.fromkeys(name for name in before if name not in after)


def change(environ: MutableMapping[str, str], changes: Changes) -> None:
    """Set and remove variables."""
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
