"""The server stops when it is asked to, and leaves what it did not make."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.clients import OneRequest, in_flight
from tests.process.harness import ROOT, Server
from tests.process.tracers import traced


def remove(path: Path) -> None:
    path.unlink()


def replace_by_a_file(path: Path) -> None:
    path.unlink()
    path.write_text("precious")


def replace_by_another_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))


def remove_the_directory(path: Path) -> None:
    path.rename(path.parent.with_name("elsewhere.sock"))
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("change", "remains"),
    [
        (remove, False),
        (replace_by_a_file, True),
        (replace_by_another_socket, True),
        (remove_the_directory, False),
    ],
)
def test_a_socket_file_that_is_gone_or_anothers(change, remains, number, serve, tmp_path):
    path = tmp_path / "web" / "site.sock"
    path.parent.mkdir()
    server = serve("--bind", f"unix:{path}")
    server.wait_ready()
    change(path)
    server.signal(number)
    assert server.wait_exit() == 0
    assert path.exists() is remains
    assert "of its own" not in server.log


def test_two_servers_on_one_path_each_stop(serve, tmp_path):
    path = tmp_path / "site.sock"
    first = serve("--bind", f"unix:{path}")
    first.wait_ready()
    second = serve("--bind", f"unix:{path}")
    second.wait_ready()
    assert second.stop() == 0
    assert first.stop() == 0


def test_no_second_arbiter_is_started_while_the_server_stops(serve):
    server = serve()
    server.wait_ready()
    client = OneRequest(server, "/stream?lines=40")
    server.wait("a stream in flight", in_flight)
    server.signal(signal.SIGTERM)
    server.wait_log("asked to leave: stop")  # and the listeners are closed
    server.signal(signal.SIGUSR2)
    server.wait_log("SIGUSR2: cannot start a second arbiter: the server is stopping")
    assert server.wait_exit() == 0
    client.join(20)
    assert "Traceback" not in server.log


@pytest.mark.timeout(120)
def test_the_arbiter_ends_although_the_kernel_does_not_end_a_worker(serve):
    server = serve("--worker-reload-mercy", "1s")
    server.wait_ready()
    pid = server.pids()[0]
    with traced(pid):
        server.signal(signal.SIGTERM)
        server.wait_log(f"still running, although killed: pid {pid}")
        assert server.wait_exit(timeout=30) == 0
    assert not boards(server)


def command(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "WORKERGUARD_RUN_DIR": str(server.run_dir), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "django_workerguard.cli", *arguments],
        cwd=server.project,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def boards(server: Server) -> list[Path]:
    return sorted(server.run_dir.glob("*.board"))


def test_a_run_directory_that_is_emptied_is_filled_again(serve):
    server = serve()
    server.wait_ready()
    (board,) = boards(server)
    for path in (board, board.with_suffix(".sock")):
        path.unlink()
    server._poll("the files", lambda: boards(server) and board.with_suffix(".sock").exists(), 60)
    server.wait_event("restored", count=2)
    assert command(server, "probe", "live").returncode == 0
    assert command(server, "reload", "--wait=60").returncode == 0
    killed = server.kill_worker(1)
    server.wait(
        "a new worker",
        lambda status: status["ready"] == 2 and killed not in [slot["pid"] for slot in status["slots"]],
    )
    board.unlink()
    server._poll("the board once more", lambda: boards(server), 60)
    server.wait_event("restored", count=3)
    assert server.stop() == 0
    assert not boards(server)


def test_a_run_directory_that_is_shared_keeps_its_mode(serve):
    """A service manager has made it, and a proxy passes through it to the server's socket."""
    server = serve()
    server.wait_ready()
    server.run_dir.chmod(0o755)
    (board,) = boards(server)
    board.unlink()
    server.wait_log("the server made it again")
    server._poll("the board", lambda: boards(server), 60)
    assert server.run_dir.stat().st_mode & 0o777 == 0o755


def test_a_run_directory_behind_a_link_is_filled_again(serve, tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there")
    server = serve("--run-dir", str(link), environ={"RUNTIME_DIRECTORY": None})
    server.board_directory = link
    server.wait_ready()
    (board,) = link.glob("*.board")
    board.unlink()
    server._poll("the board", lambda: list(link.glob("*.board")), 60)
    assert server.stop() == 0


def test_a_run_directory_that_cannot_be_made_again_is_reported_once(serve, tmp_path):
    directory = tmp_path / "there"
    server = serve("--run-dir", str(directory), environ={"RUNTIME_DIRECTORY": None})
    server.board_directory = directory
    server.wait_ready()
    (board,) = directory.glob("*.board")
    server.signal(signal.SIGSTOP)  # it would make the directory again in between
    shutil.rmtree(directory)
    directory.write_text("a file in its place")
    server.signal(signal.SIGCONT)
    server.wait_log("cannot be made again")
    assert server.get("/").status == 200
    directory.unlink()
    server._poll("the board", board.exists, 60)
    server.wait_event("restored", count=2)
    assert len(server.events("lost")) == 2, "the board and the socket, once each"
    assert "of its own" not in server.log
    assert server.stop() == 0


def test_a_second_server_of_the_same_name_and_pid_is_refused(serve):
    """Two containers with one run directory: their arbiters have the same pid."""
    server = serve()
    server.wait_ready()
    (board,) = boards(server)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from django_workerguard.scoreboard.layout import Layout\n"
        "from django_workerguard.scoreboard.places import open_board\n"
        f"open_board(Layout(4, 2), {board.name.split('.')[0]!r}, {str(board.parent)!r}, environ={{}}, uid=os.geteuid(), "
        f"pid={server.arbiter})"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another server called" in outcome.stderr
    assert command(server, "status").returncode == 0
    assert board.with_suffix(".sock").exists()


def test_reloads_that_never_stop_do_not_keep_a_dead_slot_empty(serve, faults):
    server = serve()
    server.wait_ready()
    faults.set("ready", "slow")
    killed = {server.kill_worker(slot) for slot in (1, 2)}
    server.wait_event("exited", lambda event: event["pid"] in killed, count=2)
    reloads = 0

    def reload_again(status: dict) -> bool:
        nonlocal reloads
        if status["arbiter"]["generation"] > reloads:  # the one before has begun
            reloads += 1
            server.signal(signal.SIGHUP)
        return status["ready"] == 2

    server.wait("both slots, under reloads", reload_again)
    assert reloads > 1
