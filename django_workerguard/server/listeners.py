"""The listeners' end: close each, and remove the files of those that this arbiter has made. Runs in the arbiter.

gunicorn's own function removes whatever has the path of a unix socket, and fails where there is nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

File = tuple[int, int]  # device and inode


def socket_files(listeners: Iterable[Any]) -> dict[str, File]:
    """Return by path which files the unix sockets among new listeners have made."""
    paths = (listener.cfg_addr for listener in listeners if isinstance(listener.cfg_addr, str))
    return {path: file for path in paths if (file := _file(path)) is not None}


def close_listeners(listeners: Iterable[Any], files: Mapping[str, File]) -> None:
    """Close every listener, and remove the socket files that are still those of ``files``."""
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.close()
    for path, file in files.items():
        if _file(path) == file:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _file(path: str) -> File | None:
    """Return the identity of a unix socket's file; None where there is none, or something else."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: the abstract namespace
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None
