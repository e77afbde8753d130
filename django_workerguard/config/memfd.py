"""A file without a name, in memory: what one process writes, another one reads. Runs in the arbiter and the commands."""

from __future__ import annotations

import os

from django_workerguard.errors import ConfigurationError


def open_anonymous(name: str) -> int:
    """Return the descriptor of a new, empty file that nothing else can open. Raises OSError.

    It is memory if the kernel allows it. A seccomp filter may refuse memfd_create; then it is a file of the
    temporary directory, whose name is removed at once.
    """
    try:
        return os.memfd_create(name)
    except OSError as refused:
        import tempfile  # late: every command reads boards, and few hosts get here

        try:
            fd, path = tempfile.mkstemp(prefix=name)
        except OSError as error:
            text = (
                f"memfd_create: {refused.strerror}, and no temporary directory can be used: {error.strerror}"
            )
            raise OSError(refused.errno, text) from None
    os.unlink(path)
    return fd


def need_anonymous(name: str) -> int:
    """Return the same. Raises ConfigurationError, for a start that cannot do without."""
    try:
        return open_anonymous(name)
    except OSError as error:
        raise ConfigurationError(
            f"no file can be opened to start the server with: {error.strerror}",
            hint="Allow memfd_create in the seccomp profile, or set TMPDIR to a directory that can be written.",
        ) from None


def read_all(fd: int) -> bytes:
    """Return the whole content, wherever the descriptor is positioned."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def write_all(fd: int, content: bytes) -> None:
    """Replace the content."""
    os.ftruncate(fd, 0)
    written = 0
    while written < len(content):
        written += os.pwrite(fd, content[written:], written)
