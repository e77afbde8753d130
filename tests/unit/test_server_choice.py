"""A server that has not said yet which project it serves is near to none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_workerguard.cli.server_choice import _nearest
from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.layout import ABOUT_WORDS, Layout
from django_workerguard.scoreboard.places import find_servers, pools_of


def planted(directory: Path, name: str, kind: int, size: int | None = None, **about: object) -> None:
    """Make a board with the first ``size`` bytes of a server's description; None: with all of it."""
    pid = os.getpid()
    path = directory / f"{name}.{pid}.board"
    board = Board.create(Layout(seats=2, slots=2), path, pid=pid, start=start_time(pid))
    board.words[Header.KIND] = kind
    if about:
        board.write_about(about)
    board.write_text(board.layout.about, ABOUT_WORDS, board.read_text(board.layout.about, ABOUT_WORDS)[:size])
    board.close()


@pytest.mark.parametrize("size", [0, 20], ids=["no description", "half a description"])
@pytest.mark.parametrize("here", [Path("/srv/other"), Path("/"), Path.cwd()])
def test_it_is_near_to_nothing(tmp_path, size, here):
    about = {"project": "/srv/shop"} if size else {}
    for kind in (ServerKind.WEB, ServerKind.POOL):
        planted(tmp_path, f"starting-{kind}", kind, size, **about)
    (server,) = find_servers(str(tmp_path), environ={}, uid=os.geteuid())
    assert _nearest([server], here) == []
    assert pools_of(str(here), str(tmp_path), environ={}, uid=os.geteuid()) == []
    assert pools_of("", str(tmp_path), environ={}, uid=os.geteuid()) == []


def test_a_project_that_is_not_known_has_no_pools(tmp_path):
    planted(tmp_path, "celery", ServerKind.POOL, project=str(Path.cwd()))
    assert pools_of("", str(tmp_path), environ={}, uid=os.geteuid()) == []
    (pool,) = pools_of(str(Path.cwd()), str(tmp_path), environ={}, uid=os.geteuid())
    assert pool.name == "celery"
