"""Paths of unix sockets: how long they may be, and a short one for a path that is longer. Runs anywhere."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

LONGEST_PATH = 107  # bytes


@contextlib.contextmanager
def bindable(path: Path) -> Iterator[str]:
    """Give a path for bind and connect: of a path that is too long, one by a descriptor of the directory. Raises OSError."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{directory}/{path.name}"
        if len(os.fsencode(short)) > LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, "its name is too long for a unix socket")
        yield short
    finally:
        os.close(directory)
