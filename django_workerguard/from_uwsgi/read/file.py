"""Reader of one plain file with a limit on its size. Runs in the command."""

from __future__ import annotations

import os
import stat
import sys

from django_workerguard.from_uwsgi.directive import Place, ReadError

LARGEST = 1 << 20  # bytes of a configuration file
LARGEST_VALUE = 1 << 16  # bytes of a file whose content is a value
STANDARD_INPUT = "-"


class UnreadableFileError(Exception):
    """The file is not there, or may not be read."""


def read_text(path: str, *, largest: int = LARGEST) -> str:
    """Return the text of a regular file, or of the standard input for "-".

    Raises UnreadableFileError if it cannot be opened, and ReadError if it is too large or is not text.
    """
    data = sys.stdin.buffer.read(largest + 1) if path == STANDARD_INPUT else _bytes(path, largest)
    if len(data) > largest:
        raise ReadError(Place(path, 1), f"the file is larger than {largest >> 10} KB")
    if (nul := data.find(b"\0")) >= 0:
        raise ReadError(_place(path, data, nul), "the file is not text: it contains a NUL byte")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ReadError(
            _place(path, data, error.start),
            f"the byte 0x{data[error.start]:02x} is not UTF-8",
            hint="Convert the file to UTF-8.",
        ) from None


def _bytes(path: str, largest: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise UnreadableFileError(getattr(error, "strerror", None) or str(error)) from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise UnreadableFileError("it is a directory; translate each of its files on its own")
        if not stat.S_ISREG(mode):
            raise UnreadableFileError("it is not a regular file")
        with open(fd, "rb", closefd=False) as file:
            return file.read(largest + 1)
    finally:
        os.close(fd)


def _place(path: str, data: bytes, offset: int) -> Place:
    return Place(path, data.count(b"\n", 0, offset) + 1)
