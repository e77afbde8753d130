"""A server whose run directory is gone and cannot be made again serves on, and says so once."""

from __future__ import annotations

import os
from pathlib import Path

from django_workerguard.arbiter.control_socket import ControlSocket
from django_workerguard.arbiter.run_files import LOOK_EVERY, RunFiles
from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.places import Opened, RunDirectory


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
