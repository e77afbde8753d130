"""Find the boards of running servers, and read only their headers. Runs in readers.

Imports almost nothing, for the same reason as `header`.
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
    return environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the usual directory on Linux


def run_directories(run_dir: str | None, *, environ: Mapping[str, str], uid: int) -> list[tuple[str, str]]:
    """List the run directories that a server would try, best first, each with the setting that it comes from."""
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
    """List every directory that may have boards of this user's servers.

    ``others``: for root, add the directories of all users. Use it only for a server that is given by name, because any
    user can make a file that looks like a board. A link where every user may write is left out: no server uses it.
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
    shared = (f"{SHARED_MEMORY}/", f"{temporary_directory(environ)}/") if run_dir is None else ()
    return [
        path for path in dict.fromkeys(directories) if not (path.startswith(shared) and os.path.islink(path))
    ]


def board_paths(
    run_dir: str | None, *, environ: Mapping[str, str], uid: int, others: bool = False
) -> Iterator[str]:
    """Yield the path of every file with the name of a board."""
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
    """Open a board's file. Raises OSError, also if another user may have put the file there.

    ``others``: root may open another user's file if the directory belongs to that user or to root and no other user may
    write to it. Without ``others``, root does so only directly below /run, where only root makes directories
    (systemd's RuntimeDirectory).
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
    """Return whether only a user and root can put files into a directory."""
    status = os.stat(directory)
    return status.st_uid in (0, owner) and not status.st_mode & 0o022


def server_label(path: str) -> str:
    """Return the ``NAME.PID`` of a board's path."""
    return os.path.basename(path).removesuffix(SUFFIX)


def has_name(path: str, name: str) -> bool:
    """Return whether a board belongs to the server with this name: NAME, or NAME.PID if several servers have one name."""
    label = server_label(path)
    return name in (label, label.rpartition(".")[0])


def read_header(path: str, *, others: bool = False) -> memoryview | None:
    """Read the header of a board whose arbiter is alive; None for any other file."""
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


def ready_workers(directory: str, pid: int) -> int:
    """Return how many workers of the arbiter with this pid are ready; 0 if the directory has no board of it."""
    for name in _names(directory):
        if name.endswith(f".{pid}{SUFFIX}"):
            words = read_header(f"{directory}/{name}")
            if words is not None and words[Header.PID] == pid:
                return words[Header.READY]
    return 0
