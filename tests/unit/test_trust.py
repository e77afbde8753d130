"""Which files a reader takes for a server's board: another user may have put anything anywhere."""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from django_workerguard.arbiter.run_files import RunFiles
from django_workerguard.cli.server_choice import choose
from django_workerguard.errors import ConfigurationError, NoServerError
from django_workerguard.probe.process import start_time
from django_workerguard.report.metrics import families
from django_workerguard.report.status_text import table
from django_workerguard.scoreboard import discovery, places
from django_workerguard.scoreboard.board import Board, BoardError
from django_workerguard.scoreboard.header import WORD, Header, ServerKind
from django_workerguard.scoreboard.layout import ABOUT_WORDS, MAX_SEATS, Layout
from django_workerguard.scoreboard.places import Opened, RunDirectory, find_servers, open_board, pools_of
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.server.main import remove_files

STRANGER = 12345
SMALL = Layout(seats=2, slots=2)
root_only = pytest.mark.needs("root")


def planted(
    directory: Path, name: str, *, uid: int, kind: int = ServerKind.WEB, pid: int = 0, **about: object
) -> Path:
    """Make a board that says it is a living server's, of this process or another, and give it to a user."""
    directory.mkdir(parents=True, exist_ok=True)
    pid = pid or os.getpid()
    path = directory / f"{name}.{pid}.board"
    board = Board.create(SMALL, path, pid=pid, start=start_time(pid))
    board.words[Header.KIND] = kind
    board.write_about({"project": "/srv/shop", "name": name, **about})
    board.close()
    os.chown(path, uid, -1)
    if uid:
        os.chown(directory, uid, -1)
    return path


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Path:
    """A /dev/shm of our own."""
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(discovery, "SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr(places, "WORLD_WRITABLE", (str(tmp_path), discovery.TEMPORARY))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "WORKERGUARD_RUN_DIR", "WORKERGUARD_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def asked(**more: object) -> argparse.Namespace:
    return argparse.Namespace(**{"celery": False, "name": None, "run_dir": None, **more})


@root_only
def test_a_board_that_another_user_has_planted_is_not_read(shared):
    planted(shared / f"workerguard-{STRANGER}", "shop", uid=STRANGER)
    planted(shared / "workerguard-0", "evil", uid=STRANGER)
    assert list(find_servers(None, environ=os.environ, uid=0)) == []
    with pytest.raises(NoServerError, match="root can see servers of other users with --name or --run-dir"):
        choose(asked(), here=Path("/srv/shop"))


@root_only
def test_a_pool_that_another_user_has_planted_is_not_read(shared):
    planted(shared / f"workerguard-{STRANGER}", "celery", uid=STRANGER, kind=ServerKind.POOL)
    assert pools_of("/srv/shop", None, environ=os.environ, uid=0) == []


@root_only
def test_root_reads_another_users_server_by_its_name(shared):
    planted(shared / f"workerguard-{STRANGER}", "shop", uid=STRANGER)
    (server,) = choose(asked(name="shop"), here=Path("/srv/shop"))
    assert server.owner == STRANGER
    (server,) = choose(asked(run_dir=str(shared / f"workerguard-{STRANGER}")), here=Path("/srv/shop"))
    assert server.name == "shop"


@root_only
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_into_which_others_may_write_proves_nothing(shared, mode):
    directory = shared / f"workerguard-{STRANGER}"
    planted(directory, "shop", uid=STRANGER)
    directory.chmod(mode)
    with pytest.raises(NoServerError):
        choose(asked(name="shop"), here=Path("/srv/shop"))


@root_only
def test_a_board_in_a_directory_of_a_third_user_is_not_read(shared):
    directory = shared / f"workerguard-{STRANGER}"
    planted(directory, "shop", uid=STRANGER)
    os.chown(directory, STRANGER + 1, -1)
    with pytest.raises(NoServerError):
        choose(asked(name="shop"), here=Path("/srv/shop"))


@root_only
def test_a_servers_word_that_it_replaces_another_counts_beside_that_one_only(shared):
    planted(shared / "workerguard-0", "shop", uid=0)
    planted(shared / f"workerguard-{STRANGER}", "shop", uid=STRANGER, replaces=os.getpid())
    for which in (asked(name="shop"), asked()):
        (server,) = choose(which, here=Path("/srv/shop"))
        assert server.owner == 0


@root_only
def test_ones_own_server_goes_before_another_users_of_the_same_name(shared):
    planted(shared / "workerguard-0", "shop", uid=0)
    planted(shared / f"workerguard-{STRANGER}", "shop", uid=STRANGER, pid=os.getppid())
    (server,) = choose(asked(name="shop"), here=Path("/srv/shop"))
    assert server.owner == 0
    (server,) = choose(asked(name=f"shop.{os.getppid()}"), here=Path("/srv/shop"))
    assert server.owner == STRANGER


def test_a_link_in_a_place_where_everybody_may_write_leads_to_no_server(shared, tmp_path):
    real = planted(tmp_path / "run" / "shop", "shop", uid=os.geteuid())
    for uid in {os.geteuid(), STRANGER}:
        (shared / f"workerguard-{uid}").symlink_to(real.parent)
        assert list(find_servers(None, environ=os.environ, uid=os.geteuid(), others=True)) == []
    (server,) = find_servers(str(real.parent), environ=os.environ, uid=os.geteuid())
    assert server.name == "shop"


@root_only
def test_another_users_file_that_is_truncated_ends_a_read_and_not_the_process(shared):
    path = planted(shared / f"workerguard-{STRANGER}", "shop", uid=STRANGER)
    board = Board.open(path, others=True)
    os.truncate(path, 100)
    snapshot(board)
    with pytest.raises(BoardError, match="truncated"):
        board.refresh()
    board.close()


@pytest.mark.parametrize(
    ("seats", "slots"), [(MAX_SEATS + 1, 2), (2, 400_000), (0, 2), (2, 0), (2**40, 2**40)]
)
def test_a_board_of_more_seats_than_any_server_has_is_none(tmp_path, seats, slots):
    path = tmp_path / "shop.1.board"
    Board.create(SMALL, path).close()
    size = Layout(seats, slots).size
    with path.open("r+b") as file:
        for word, value in ((Header.SIZE, size), (Header.SEATS, seats), (Header.SLOTS, slots)):
            file.seek(word * WORD)
            file.write(struct.pack("Q", value & (2**64 - 1)))
        if size < 2**40:
            file.truncate(size)  # sparse
    with pytest.raises(BoardError, match="number of seats or slots is not valid"):
        Board.open(path)


@root_only
def test_a_run_directory_that_is_a_link_is_not_used(shared, tmp_path):
    target = tmp_path / "roots"
    target.mkdir(mode=0o755)
    link = shared / "workerguard-0"
    link.symlink_to(target)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        RunDirectory(path=link).prepare(0)
    opened = open_board(SMALL, "shop", None, environ=os.environ, uid=0, pid=os.getpid())
    assert opened.board.path is None or opened.board.path.parent != link
    assert list(target.iterdir()) == []
    opened.board.close()


@root_only
def test_a_servers_own_directory_lets_its_workers_user_pass_and_not_look(shared):
    opened = open_board(SMALL, "shop", None, environ=os.environ, uid=0, pid=os.getpid(), mode=0o711)
    assert opened.board.path is not None
    assert opened.board.path.parent.stat().st_mode & 0o777 == 0o711
    assert opened.board.path.stat().st_mode & 0o777 == 0o600
    opened.board.close()


@root_only
def test_a_second_server_takes_no_right_from_the_first_ones_workers(shared):
    directory = shared / "workerguard-0"
    for mode in (0o700, 0o711, 0o700):
        RunDirectory(path=directory, mode=mode).prepare(0)
    assert directory.stat().st_mode & 0o777 == 0o711


def test_a_board_that_was_removed_at_the_end_is_not_made_again(tmp_path):
    path = tmp_path / "shop.1.board"
    board = Board.create(SMALL, path)
    restored: list[Path] = []
    place = RunFiles(
        Opened(board, directory=RunDirectory(path=tmp_path)),
        restored=restored.append,
        lost=lambda path, error: None,
    )
    path.unlink()
    place.restore_missing(None, 10.0)
    assert (path.exists(), restored) == (True, [path])
    place.remove()
    place.restore_missing(None, 20.0)
    assert not path.exists()
    board.close()


def test_the_end_leaves_the_files_of_a_server_that_has_taken_the_place(tmp_path):
    path = tmp_path / "shop.1.board"
    board = Board.create(SMALL, path)
    path.unlink()
    for taken in (path, path.with_suffix(".sock")):
        taken.touch()
    remove_files(board)
    assert path.exists()
    assert path.with_suffix(".sock").exists()
    board.close()


def test_a_reader_in_the_arbiters_process_does_not_give_up_its_lock(tmp_path):
    path = tmp_path / "shop.1.board"
    board = Board.create(SMALL, path)
    Board.open(path).close()
    code = f"import pathlib; from django_workerguard.scoreboard.places import remove_stale_files; remove_stale_files(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.exists(), "another server's start took it for a dead one's"
    board.close()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not path.exists()


def test_a_board_that_is_held_is_not_made_again(tmp_path):
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    opened = open_board(SMALL, "shop", None, environ=environ, uid=os.geteuid(), pid=1)
    with pytest.raises(ConfigurationError, match="another server called 'shop' with pid 1"):
        open_board(SMALL, "shop", None, environ=environ, uid=os.geteuid(), pid=1)
    opened.board.close()


SCRIBBLED = {
    "bind that is no text": {"bind": [1, None, {"a": []}]},
    "bind that is no list": {"bind": 7},
    "replaces that is unhashable": {"replaces": [{}]},
    "lone surrogates": {"name": "\ud800shop", "host": "\udfff", "project": "/srv/\ud834"},
    "nothing in its form": {"name": {}, "host": [], "project": None, "worker_class": 1e400},
}


@pytest.mark.parametrize("about", SCRIBBLED.values(), ids=SCRIBBLED.keys())
def test_readers_survive_what_a_damaged_board_says_of_its_server(tmp_path, about):
    path = tmp_path / f"shop.{os.getpid()}.board"
    board = Board.create(SMALL, path, pid=os.getpid(), start=start_time(os.getpid()))
    board.write_json(board.layout.about, ABOUT_WORDS, {"project": "/srv/shop", "name": "shop", **about})
    board.write_tallies({"exits": {"asked": 10**400}, "loads": {"0.1": 1e309}, "load_seconds": 10**310})
    shot = snapshot(board)
    table(shot).encode()
    for family in families(shot):
        for labels, number in family.samples:
            "".join(labels).encode()
            float(number)
    (server,) = choose(asked(run_dir=str(tmp_path)), here=Path("/"))
    assert server.pid == os.getpid()
    server.board.close()
    board.close()


def test_a_reader_sees_all_that_a_server_says_about_itself(tmp_path):
    path = tmp_path / f"shop.{os.getpid()}.board"
    board = Board.create(SMALL, path, pid=os.getpid(), start=start_time(os.getpid()))
    about = {
        "host": "one",
        "name": "shop",
        "project": "/srv/shop",
        "bind": ["127.0.0.1:80"],
        "debug": True,
        "settings": "shop.settings",
        "worker_class": "sync",
        "replaces": 7,
    }
    board.write_about(about)
    assert board.read_about() == about
    assert snapshot(board)["settings"] == "shop.settings"
    board.close()


def test_a_server_whose_process_cannot_be_seen_is_not_called_dead(tmp_path):
    path = tmp_path / "shop.1.board"
    board = Board.create(SMALL, path, pid=1, start=0)  # as where there is no /proc
    (line,) = places.unreadable(str(tmp_path), environ={}, uid=os.getuid())
    assert "cannot be seen from here" in line
    board.close()
    (line,) = places.unreadable(str(tmp_path), environ={}, uid=os.getuid())
    assert line.endswith(
        "belongs to a server that has died; the next server that uses this directory removes the file"
    )
