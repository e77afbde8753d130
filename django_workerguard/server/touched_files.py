"""Files whose change asks for a reload: `touch-reload`. Runs in the arbiter."""

from __future__ import annotations

import os
from collections.abc import Sequence

Stamp = tuple[int, int, int]  # time of the last change in ns, inode, size


class TouchedFiles:
    """Watches files by their path: a new time, or a new file in its place, is a change. A file that is gone is none."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self._seen = {path: _stamp(path) for path in paths}

    def changed(self) -> str | None:
        """Return a file that has changed since the last look, or that has come into being; None if there is none."""
        found = None
        for path, before in self._seen.items():
            stamp = _stamp(path)
            if stamp is not None and stamp != before:
                self._seen[path] = stamp
                found = found or path
        return found


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
