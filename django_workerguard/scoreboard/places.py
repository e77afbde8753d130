"""Run directories with scoreboards and control sockets, and their servers. Runs in the arbiter and in readers.

A server called NAME with the arbiter's pid PID owns ``NAME.PID.board`` and ``NAME.PID.sock`` in its run directory. A file
whose arbiter is gone is stale; the next start removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from django_workerguard.config.memfd import write_error
from django_workerguard.errors import ConfigurationError
from django_workerguard.probe.process import is_alive, start_time
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.board import Board, BoardError, is_held, remove_unheld
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.values import value_class

WORLD_WRITABLE = (
    discovery.SHARED_MEMORY,
    discovery.TEMPORARY,
)  # sources of run directories whose parent every user may write to
_BOARD = re.compile(r"(?P<name>.+)\.(?P<pid>\d+)\.board")


@value_class(kw_only=True)
class RunDirectory:
    """A run directory, with the mode and the checks that a server needs."""

    path: Path
    mode: int = 0o700  # of a directory that the server has to make
    parent_is_world_writable: bool = True  # then the directory must not be a link

    def prepare(self, uid: int) -> None:
        """Make the directory, or check the existing one. Raises OSError."""
        self.path.mkdir(mode=self.mode, parents=True, exist_ok=True)
        links = os.O_NOFOLLOW if self.parent_is_world_writable else 0
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | links)
        try:
            status = os.fstat(fd)
            if status.st_uid not in (uid, 0) or (status.st_mode & 0o002 and not status.st_mode & 0o1000):
                raise PermissionError(1, "it belongs to another user, or every user may write to it")
            if (
                self.parent_is_world_writable
                and status.st_uid == uid
                and status.st_mode & self.mode != self.mode
            ):
                # it was made for a server with other options
                os.fchmod(fd, status.st_mode & 0o777 | self.mode)
        finally:
            os.close(fd)


@value_class
class Opened:
    """A new board, its run directory, and a warning for the log if there is one."""

    board: Board
    warning: str | None = None
    directory: RunDirectory | None = None


def server_name(name: str | None, project: Path) -> str:
    """Return the server's name as a file name: ``name``, otherwise the name of the project's directory."""
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
    """Make the board of this arbiter in the first run directory that can be written.

    ``mode``: of a directory that has to be made. If no directory can be used, the board is anonymous: the server serves,
    and warns that the commands cannot see it. Raises ConfigurationError if ``run_dir`` is set and cannot be used, or if no
    board can be made.
    """
    problems = []
    for place, source in discovery.run_directories(run_dir, environ=environ, uid=uid):
        try:
            directory = RunDirectory(
                path=Path(place), mode=mode, parent_is_world_writable=source in WORLD_WRITABLE
            )
            directory.prepare(uid)
            remove_stale_files(Path(place))
            board = Board.create(layout, Path(place, f"{name}.{pid}.board"), pid=pid, start=start_time(pid))
        except FileExistsError:
            raise ConfigurationError(
                f"another server called {name!r} with pid {pid} uses {place}; it may run in another container",
                option="name",
                hint="Give each server its own name, or its own run directory.",
            ) from None
        except OSError as error:
            if error.errno == errno.EFBIG:  # the limit applies everywhere
                raise write_error("the scoreboard", layout.size, error) from None
            problems.append(f"{place}: {error.strerror}")
            if run_dir is not None:
                raise ConfigurationError(
                    f"{run_dir!r} cannot hold the scoreboard: {error.strerror}",
                    option="run-dir",
                    hint=f"It needs {layout.size // 1024} KiB in a directory that this user may write to.",
                ) from None
            continue
        return Opened(board, _disk_warning(Path(place), source), directory)
    warning = f"no directory can hold the scoreboard ({'; '.join(problems)}); the workerguard commands cannot see this server"
    return Opened(anonymous_board(layout), warning)


def anonymous_board(layout: Layout) -> Board:
    """Make a board that no other process can open. Raises ConfigurationError."""
    try:
        return Board.create(layout, None)
    except OSError as error:
        raise write_error("the scoreboard", layout.size, error) from None


def _disk_warning(place: Path, source: str) -> str | None:
    if source != discovery.TEMPORARY or _is_tmpfs(place):
        return None
    return f"the scoreboard is on a disk ({place}), which is slow; set --run-dir to a directory on a tmpfs"


def _is_tmpfs(path: Path) -> bool:
    mounts = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, point, kind, *_ = line.split()
            if path.is_relative_to(point):
                mounts.append((len(point), kind))
    return bool(mounts) and max(mounts)[1] in ("tmpfs", "ramfs")


def remove_stale_files(directory: Path) -> None:
    """Remove the boards and sockets of arbiters that are gone.

    An arbiter holds a lock on its board until it ends; its children do not keep the lock. A pid would not do, because the
    arbiter may run in another container that shares this directory.
    """
    for path in (*directory.glob("*.board"), *directory.glob("*.new")):
        if _BOARD.fullmatch(path.with_suffix(".board").name):
            # a server whose board is being made again goes on using its socket
            beside = [path.with_suffix(".sock")] if path.suffix == ".board" else []
            remove_unheld(path, *beside)


def is_live(board: Board) -> bool:
    """Return whether the arbiter of a board still runs."""
    return is_alive(board.words[Header.PID], board.words[Header.START])


@value_class
class Server:
    """A running server that was found in a run directory."""

    name: str
    pid: int
    board: Board
    project: str  # "": not known, because it is just starting or its description is too long

    @property
    def kind(self) -> int:
        """The `header.ServerKind` of the server."""
        return self.board.words[Header.KIND]

    @property
    def directory(self) -> Path | None:
        return self.board.path.parent if self.board.path is not None else None

    @property
    def owner(self) -> int:
        """The uid that owns the board's file; -1 if the file is gone."""
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
    """Yield every running server of one kind that belongs to this user; ``others``: for root, the servers of all users.

    Searches every directory that a server could have used. Files that are not a complete scoreboard of this version are
    skipped; `unreadable` reports them.
    """
    for path in discovery.board_paths(run_dir, environ=environ, uid=uid, others=others):
        try:
            board = Board.open(Path(path), others=others)
        except (OSError, BoardError):
            continue
        if board.words[Header.KIND] != kind or not is_live(board):
            board.close()
            continue
        about = board.read_about()
        yield Server(
            discovery.server_label(path).rpartition(".")[0],
            board.words[Header.PID],
            board,
            str(about.get("project", "")),
        )


def is_same_tree(project: str, here: str) -> bool:
    """Return whether a directory is a server's project, or inside or around it; "" is near to nothing."""
    return any(
        one == other or one in other.parents or other in one.parents
        for one in as_paths(project)
        for other in as_paths(here)
    )


def as_paths(project: str) -> set[Path]:
    """Return a project's directory, as it is given and without links; none if it is not known."""
    return {Path(project), Path(os.path.realpath(project))} if project else set()


def pools_of(project: str, run_dir: str | None, *, environ: Mapping[str, str], uid: int) -> list[Server]:
    """Return the running Celery pools of a project, on this host."""
    pools = find_servers(run_dir, environ=environ, uid=uid, kind=ServerKind.POOL, others=run_dir is not None)
    return [server for server in pools if is_same_tree(server.project, project)]


def unreadable(
    run_dir: str | None, *, environ: Mapping[str, str], uid: int, others: bool = False
) -> Iterator[str]:
    """Yield one line, with the reason, for each board that cannot be read or whose server is dead."""
    for path in discovery.board_paths(run_dir, environ=environ, uid=uid, others=others):
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
    """Return one line that says why a board has no visible arbiter."""
    if is_held(Path(path), others=others):
        return (
            f"{path} belongs to a server whose process cannot be seen from here: it runs in another container, "
            "or /proc is hidden or belongs to another time namespace"
        )
    return (
        f"{path} belongs to a server that has died; the next server that uses this directory removes the file"
    )
