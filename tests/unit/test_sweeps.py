"""Two servers that start at once in one run directory: the sweep of one costs the other nothing."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from django_workerguard.scoreboard import board as module
from django_workerguard.scoreboard.board import Board, is_held
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.places import remove_stale_files

SMALL = Layout(seats=2, slots=2)


@pytest.fixture
def at_first_lock(monkeypatch):
    """Have something happen between the making of a file and its first lock."""

    def arrange(act):
        acts, flock = [act], fcntl.flock

        def act_and_lock(fd, operation):
            if acts and os.readlink(f"/proc/self/fd/{fd}").endswith(".new"):
                acts.pop()()
            flock(fd, operation)

        monkeypatch.setattr(module.fcntl, "flock", act_and_lock)
        return acts

    return arrange


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(tmp_path, at_first_lock):
    acts = at_first_lock(lambda: remove_stale_files(tmp_path))
    board = Board.create(SMALL, tmp_path / "shop.7.board")
    assert not acts
    assert is_held(board.path)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.7.board"]
    board.close()


def test_a_file_that_is_looked_at_before_it_is_locked_is_made_again(tmp_path, at_first_lock, monkeypatch):
    looking = []

    def look():
        looking.append(os.open(tmp_path / "shop.7.new", os.O_RDWR))
        fcntl.flock(looking[0], fcntl.LOCK_EX)

    at_first_lock(look)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: os.close(looking.pop()))
    board = Board.create(SMALL, tmp_path / "shop.7.board")
    assert is_held(board.path)
    board.close()


def test_a_file_is_removed_only_while_its_lock_is_held(tmp_path, monkeypatch):
    path = tmp_path / "shop.7.board"
    Board.create(SMALL, path).close()
    held, unlink = [], Path.unlink

    def unlink_held(self, **more):
        if self == path:
            held.append(is_held(self))
        unlink(self, **more)

    monkeypatch.setattr(Path, "unlink", unlink_held)
    remove_stale_files(tmp_path)
    assert held == [True], "another start could lock it meanwhile"


def test_a_sweep_leaves_what_has_taken_the_place_of_a_file_that_it_has_opened(tmp_path, monkeypatch):
    path = tmp_path / "shop.7.new"
    path.touch()
    flock = fcntl.flock

    def replace_and_lock(fd, operation):
        path.unlink(missing_ok=True)
        path.touch()
        flock(fd, operation)

    monkeypatch.setattr(module.fcntl, "flock", replace_and_lock)
    remove_stale_files(tmp_path)
    assert path.exists()


def test_the_sweep_of_a_board_that_is_being_made_again_leaves_the_control_socket(tmp_path):
    for name in ("shop.7.new", "shop.7.sock", "dead.8.board", "dead.8.sock"):
        (tmp_path / name).touch()
    remove_stale_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.7.sock"]
