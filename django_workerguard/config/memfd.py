"""Anonymous files in memory, to pass data between processes. Runs in the arbiter and the commands."""

from __future__ import annotations

import errno
import os

from django_workerguard.errors import ConfigurationError


def open_anonymous(name: str) -> int:
    """Return the descriptor of a new, empty file that no other process can open. Raises OSError.

    The file is in memory. If a seccomp filter refuses memfd_create, it is in the temporary directory, and its name is
    removed at once.
    """
    try:
        return os.memfd_create(name)
    except OSError as refused:
        import tempfile  # imported late: few hosts need it, and every command would pay for it

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
    """Return the same as `open_anonymous`, but raise ConfigurationError, for a start that needs the file."""
    try:
        return open_anonymous(name)
    except OSError as error:
        raise ConfigurationError(
            f"the file that passes the configuration to the server cannot be created: {error.strerror}",
            hint="Allow memfd_create in the seccomp profile, or set TMPDIR to a writable directory.",
        ) from None


def need_written(name: str, content: bytes) -> int:
    """Return the descriptor of a new anonymous file with this content, as `need_anonymous` does."""
    fd = need_anonymous(name)
    try:
        write_all(fd, content)
    except OSError as error:
        os.close(fd)
        raise write_error("the configuration", len(content), error) from None
    return fd


def write_error(what: str, size: int, error: OSError) -> ConfigurationError:
    """Return the error to raise where a file of ``size`` bytes, also one in memory, cannot be written."""
    if error.errno != errno.EFBIG:
        return ConfigurationError(f"{what} cannot be created: {error.strerror}")
    import resource  # imported late: only this error needs it

    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return ConfigurationError(
        f"{what} needs files of {-(-size // 1024)} KiB, and the limit is {limit // 1024} KiB",
        hint="Raise the limit of the size of files: ulimit -f in a shell, LimitFSIZE= in a systemd unit.",
    )


def read_all(fd: int) -> bytes:
    """Return the whole content, at any position of the descriptor."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def write_all(fd: int, content: bytes) -> None:
    """Replace the content."""
    os.ftruncate(fd, 0)
    written = 0
    while written < len(content):
        written += os.pwrite(fd, content[written:], written)
