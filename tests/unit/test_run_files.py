"""A server whose run directory is gone and cannot be made again serves on, and says so once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

from django_workerguard.arbiter.control_socket import ControlSocket
from django_workerguard.arbiter.run_files import LOOK_EVERY, RunFiles
from django_workerguard.config.options import GuardOptions
from django_workerguard.contrib.celery.pool_arbiter import PoolArbiter
from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.places import Opened, RunDirectory
from django_workerguard.server.arbiter import GuardedArbiter


def test_what_cannot_be_made_again_is_said_once_and_tried_again(tmp_path):
    directory, said = tmp_path / "run", []
    directory.mkdir()
    path = directory / f"shop.{os.getpid()}.board"
    board = Board.create(Layout(seats=2, slots=2), path, pid=os.getpid(), start=start_time(os.getpid()))
    control = ControlSocket(path.with_suffix(".sock"), owner=-1, allowed_uids=frozenset(), ring=False)
    place = RunFiles(
        Opened(board, directory=RunDirectory(path=directory)),
        restored=lambda path: said.append(("restored", path.suffix)),
        lost=lambda path, error: said.append(("lost", path.suffix)),
    )

    def look(number: int) -> list[tuple[str, str]]:
        place.restore_missing(control, number * (LOOK_EVERY + 1))
        return sorted(said)

    assert look(1) == []
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    directory.write_text("a file where the directory was")
    lost = [("lost", ".board"), ("lost", ".sock")]
    assert look(2) == look(3) == lost
    directory.unlink()
    assert look(4) == [*lost, ("restored", ".board"), ("restored", ".sock")]
    assert Path(path).exists()
    assert look(5) == look(4)
    place.remove()
    control.close()
    board.close()


def locked(path: Path) -> set[int]:
    """Return the descriptors of this process that share the lock of a file."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            is_it = os.readlink(entry) == str(path)
            if is_it and "lock:" in Path(f"/proc/self/fdinfo/{entry.name}").read_text():
                found.add(int(entry.name))
        except FileNotFoundError:  # that of the directory itself
            pass
    return found


def test_no_child_shares_the_lock_of_a_board_that_was_made_again(tmp_path):
    """It may outlive a killed arbiter, whose board would count as held for ever."""
    path = tmp_path / f"shop.{os.getpid()}.board"
    board = Board.create(Layout(seats=2, slots=2), path, pid=os.getpid(), start=start_time(os.getpid()))
    place = RunFiles(Opened(board), restored=lambda path: None, lost=lambda path, error: None)
    arbiter = SimpleNamespace(
        _handover_fd=-1, _reload=SimpleNamespace(fd=-1), _monitor=None, _run_files=place
    )
    assert locked(path) == {board.fd}
    assert list(place.descriptors()) == [], (
        "of the board itself each child drops the lock, because it goes on using it"
    )
    path.unlink()
    place.restore_missing(None, LOOK_EVERY)
    (fd,) = locked(path)
    assert fd != board.fd
    assert fd in GuardedArbiter._own_descriptors(arbiter)
    path.unlink()
    place.restore_missing(None, 2 * LOOK_EVERY)
    assert locked(path) == set(place.descriptors())
    place.remove()
    board.close()
    for fd in place.descriptors():
        os.close(fd)


def test_no_child_of_a_pool_shares_it_either(tmp_path):
    path = tmp_path / f"pool.{os.getpid()}.board"
    board = Board.create(Layout(seats=8, slots=8), path, pid=os.getpid(), start=start_time(os.getpid()))
    arbiter = PoolArbiter(
        GuardOptions(), Opened(board), logging.getLogger("test"), node="celery@test", processes=1
    )
    given = []

    def fork_child(index, handle, others):
        given.extend(others)
        return os.getpid()

    path.unlink()
    arbiter._run_files.restore_missing(None, LOOK_EVERY)
    arbiter.tick(SimpleNamespace(target=1, fork_child=fork_child))
    (fd,) = locked(path)
    assert fd in given
    arbiter._run_files.remove()
    arbiter._control.close()
    board.close()
    os.close(fd)
