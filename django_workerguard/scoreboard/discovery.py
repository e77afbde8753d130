"""Find the boards of running servers, and read no more than their headers. Runs in readers.

Imports next to nothing, for the same reason as `header`.
"""

from __future__ import annotations

import os

from django_workerguard.probe.process import is_alive
from django_workerguard.scoreboard.header import MAGIC, VERSION, WORD, Header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - memory, not a temporary directory
TEMPORARY = "the temporary directory"
SUFFIX = ".board"


def temporary_directory(environ: Mapping[str, str]) -> str:
    """Return the temporary directory."""
    return environ.get("TMPDIR") or "/tmp"  # noqa: S108 - where Linux has it


def run_directories(run_dir: str | None, *, environ: Mapping[str, str], uid: int) -> list[tuple[str, str]]:
    """List the run directories that a server would try, best first, each with the setting that names it."""
    if run_dir is not None:
        return [(os.path.abspath(run_dir), "run-dir")]
    directories = [
        (os.path.join(environ[name].split(":")[0], sub).rstrip("/"), f"${name}")
        for name, sub in (("RUNTIME_DIRECTORY", ""), ("XDG_RUNTIME_DIR", "workerguard"))
        if environ.get(name, "").startswith("/")
    ]
    directories.append((f"{SHARED_MEMORY}/workerguard-{uid}", SHARED_MEMORY))
    directories.append((f"{temporary_directory(environ)}/workerguard-{uid}", TEMPORARY))
    return directories


def search_directories(
    run_dir: str | None, *, environ: Mapping[str, str], uid: int, others: bool = False
) -> list[str]:
    """List every directory in which this user's servers may have their boards.

    ``others``: for root those of all users too. Only if one of them is meant by its name: any user can
    make a file that looks like a server's.
    """
    directories = [path for path, _ in run_directories(run_dir, environ=environ, uid=uid)]
    if run_dir is None:
        directories.append(f"/run/user/{uid}/workerguard")
        directories += [f"/run/{name}" for name in _names("/run")]
        if uid == 0 and others:
            directories += [f"/run/user/{name}/workerguard" for name in _names("/run/user")]
            for parent in (SHARED_MEMORY, temporary_directory(environ)):
                directories += [
                    f"{parent}/{name}" for name in _names(parent) if name.startswith("workerguard-")
                ]
    return list(dict.fromkeys(directories))


def board_paths(
    run_dir: str | None, *, environ: Mapping[str, str], uid: int, others: bool = False
) -> Iterator[str]:
    """Yield the path of every file that is called a board."""
    for directory in search_directories(run_dir, environ=environ, uid=uid, others=others):
        for name in _names(directory):
            if name.endswith(SUFFIX):
                yield f"{directory}/{name}"


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def open_file(path: str, flags: int = os.O_RDONLY, *, others: bool = False) -> int:
    """Open a board's file. Raises OSError, also for what another user may have put there for one.

    ``others``: root may open another user's, if the directory is that user's or root's and no other may write to it.
    Without it root does so only directly below /run, where root alone makes directories (systemd's RuntimeDirectory).
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    owner, us, directory = os.fstat(fd).st_uid, os.geteuid(), os.path.dirname(path)
    if owner == us or (
        us == 0 and (others or os.path.dirname(directory) == "/run") and _is_users(directory, owner)
    ):
        return fd
    os.close(fd)
    raise PermissionError(1, "it belongs to another user")


def _is_users(directory: str, owner: int) -> bool:
    """Say whether only a user and root can put files into a directory."""
    status = os.stat(directory)
    return status.st_uid in (0, owner) and not status.st_mode & 0o022


def server_label(path: str) -> str:
    """Return the ``NAME.PID`` of a board's path."""
    return os.path.basename(path).removesuffix(SUFFIX)


def has_name(path: str, name: str) -> bool:
    """Say whether a board is that of the server called so: NAME, or NAME.PID where several have one name."""
    label = server_label(path)
    return name in (label, label.rpartition(".")[0])


def read_header(path: str, *, others: bool = False) -> memoryview | None:
    """Read the header of a board whose arbiter lives; None for anything else."""
    try:
        fd = open_file(path, others=others)
    except OSError:
        return None
    try:
        data = os.read(fd, Header.WORDS * WORD)
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(data) < Header.WORDS * WORD:
        return None
    words = memoryview(data).cast("Q")
    if words[Header.MAGIC] != MAGIC or words[Header.VERSION] != VERSION:
        return None
    return words if is_alive(words[Header.PID], words[Header.START]) else None
