"""Where scoreboards and control sockets lie, and which servers run. Runs in the arbiter and in readers.

A server called NAME with the arbiter's pid PID owns ``NAME.PID.board`` and ``NAME.PID.sock``
in its run directory. A file whose arbiter is gone is stale; the next start removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from django_workerguard.errors import ConfigurationError
from django_workerguard.probe.process import is_alive, start_time
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.board import Board, BoardError, is_held
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.layout import Layout

ANYONES = (discovery.SHARED_MEMORY, discovery.TEMPORARY)  # sources of places where every user may make files
_BOARD = re.compile(r"(?P<name>.+)\.(?P<pid>\d+)\.board")


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """A run directory as its server needs it."""

    path: Path
    mode: int = 0o700  # of a directory that has to be made
    anyones: bool = (
        True  # its parent is a place where every user may make files, so that it must not be a link
    )

    def prepare(self, uid: int) -> None:
        """Make the directory, or check the one that is there. Raises OSError."""
        self.path.mkdir(mode=self.mode, parents=True, exist_ok=True)
        links = os.O_NOFOLLOW if self.anyones else 0
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | links)
        try:
            status = os.fstat(fd)
            if status.st_uid not in (uid, 0) or (status.st_mode & 0o002 and not status.st_mode & 0o1000):
                raise PermissionError(1, "it belongs to another user or anybody may write to it")
            if self.anyones and status.st_uid == uid and status.st_mode & self.mode != self.mode:
                os.fchmod(
                    fd, status.st_mode & 0o777 | self.mode
                )  # it was made for a server with other options
        finally:
            os.close(fd)


@dataclass(frozen=True)
class Opened:
    """A new board, where it lies, and what a person should know of that."""

    board: Board
    warning: str | None = None
    directory: RunDirectory | None = None


def server_name(name: str | None, project: Path) -> str:
    """Return the server's name as a file name: the one given, else that of the project's directory."""
    return re.sub(r"[^\w.@-]", "_", name or project.name or "django").strip(".") or "django"


def open_board(
    layout: Layout,
    name: str,
    run_dir: str | None,
    *,
    environ: Mapping[str, str],
    uid: int,
    pid: int,
    mode: int = 0o700,
) -> Opened:
    """Make the board of this arbiter in the first place that can be written.

    ``mode`` is that of a directory that has to be made. Where none can, the board is anonymous: the server serves, and says that commands
    cannot see it. Raises ConfigurationError where the user named a directory that cannot be used.
    """
    problems = []
    for place, source in discovery.places(run_dir, environ=environ, uid=uid):
        try:
            directory = RunDirectory(path=Path(place), mode=mode, anyones=source in ANYONES)
            directory.prepare(uid)
            sweep(Path(place))
            board = Board.create(layout, Path(place, f"{name}.{pid}.board"), pid=pid, start=start_time(pid))
        except FileExistsError:
            raise ConfigurationError(
                f"another server called {name!r} with pid {pid}, in another container perhaps, uses {place}",
                option="name",
                hint="Give each server a name of its own, or a run directory.",
            ) from None
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
            if run_dir is not None:
                raise ConfigurationError(
                    f"{run_dir!r} cannot hold the scoreboard: {error.strerror}",
                    option="run-dir",
                    hint=f"It takes {layout.size // 1024} KiB in a directory that this user may write.",
                ) from None
            continue
        return Opened(board, _slow(Path(place), source), directory)
    warning = f"no place for the scoreboard ({'; '.join(problems)}): the workerguard commands cannot see this server"
    return Opened(Board.create(layout, None), warning)


def _slow(place: Path, source: str) -> str | None:
    if source != discovery.TEMPORARY or _is_tmpfs(place):
        return None
    return f"the scoreboard lies on a disk ({place}): name a tmpfs with --run-dir"


def _is_tmpfs(path: Path) -> bool:
    mounts = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, point, kind, *_ = line.split()
            if path.is_relative_to(point):
                mounts.append((len(point), kind))
    return bool(mounts) and max(mounts)[1] in ("tmpfs", "ramfs")


def sweep(directory: Path) -> None:
    """Remove the boards and sockets of arbiters that are gone.

    An arbiter holds a lock on its board for life, which its children do not inherit: a pid
    would say nothing of an arbiter in another container that shares this directory.
    """
    for path in (*directory.glob("*.board"), *directory.glob("*.new")):
        if _BOARD.fullmatch(path.with_suffix(".board").name) and not is_held(path):
            for stale in (path, path.with_suffix(".sock")):
                with contextlib.suppress(OSError):
                    stale.unlink()


def is_live(board: Board) -> bool:
    """Say whether the arbiter that wrote a board still runs."""
    return is_alive(board.words[Header.PID], board.words[Header.START])


@dataclass(frozen=True)
class Server:
    """A running server as found in a run directory."""

    name: str
    pid: int
    board: Board
    project: str

    @property
    def kind(self) -> int:
        """What its processes do, a `header.ServerKind`."""
        return self.board.words[Header.KIND]

    @property
    def directory(self) -> Path | None:
        return self.board.path.parent if self.board.path is not None else None

    @property
    def owner(self) -> int:
        """The user of the board's file; -1 if it is gone."""
        try:
            return os.lstat(self.board.path).st_uid if self.board.path is not None else -1
        except OSError:
            return -1

    @property
    def label(self) -> str:
        return f"{self.name}.{self.pid}"


def find_servers(
    run_dir: str | None,
    *,
    environ: Mapping[str, str],
    uid: int,
    kind: int = ServerKind.WEB,
    others: bool = False,
) -> Iterator[Server]:
    """Yield every running server of a kind that is this user's; ``others``: for root those of all users.

    Looks into every place that a server could have used. A file that is no whole
    scoreboard of this version is passed over; `unreadable` tells of those.
    """
    for path in discovery.boards(run_dir, environ=environ, uid=uid, others=others):
        try:
            board = Board.open(Path(path), others=others)
        except (OSError, BoardError):
            continue
        if board.words[Header.KIND] != kind or not is_live(board):
            board.close()
            continue
        about = board.read_about()
        yield Server(
            discovery.label(path).rpartition(".")[0],
            board.words[Header.PID],
            board,
            str(about.get("project", "/")),
        )


def is_near(project: Path, here: Path) -> bool:
    """Say whether a server's project is the one in which somebody stands."""
    return any(
        one == other or one in other.parents or other in one.parents
        for one in {project, Path(os.path.realpath(project))}
        for other in {here, Path(os.path.realpath(here))}
    )


def pools_of(project: str, run_dir: str | None, *, environ: Mapping[str, str], uid: int) -> list[Server]:
    """Return the running Celery pools of a project, on this host."""
    found = find_servers(run_dir, environ=environ, uid=uid, kind=ServerKind.POOL, others=run_dir is not None)
    return [server for server in found if is_near(Path(server.project), Path(project))]


def unreadable(
    run_dir: str | None, *, environ: Mapping[str, str], uid: int, others: bool = False
) -> Iterator[str]:
    """Yield a line for each board whose file cannot be read, or is a dead server's, with the reason."""
    for path in discovery.boards(run_dir, environ=environ, uid=uid, others=others):
        try:
            board = Board.open(Path(path), others=others)
            if not is_live(board):
                yield _why_not_live(path, others=others)
            board.close()
        except BoardError as error:
            yield str(error)
        except OSError as error:
            yield f"{path}: {error.strerror}"


def _why_not_live(path: str, *, others: bool) -> str:
    """Say why no arbiter is found for a board, in a line."""
    if is_held(Path(path), others=others):
        return (
            f"{path} is of a server whose process cannot be seen from here: it runs in another container, "
            "or /proc is hidden or of another time namespace"
        )
    return f"{path} is of a server that has died: nothing has taken it away"
