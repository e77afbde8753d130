"""Directories and disks that are full or read-only: the server serves on, or says at its start what it needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from django_workerguard.cli.main import main
from django_workerguard.errors import ExitCode
from tests.components import leave_out
from tests.process.harness import PROJECT, ROOT, Faults, Server, Since, assert_healed, wait_whole

AS_IT_IS = "as it is, but read-only"


def mounting(*mounts: tuple[str, Path]) -> tuple[str, ...]:
    """Make a prefix that runs a server where some directories are tmpfs of its own, with these options, or AS_IT_IS."""
    if subprocess.run(("unshare", "-m", "true"), capture_output=True).returncode:
        leave_out("this machine lets nobody mount anything")
    commands = " && ".join(
        f"mount --bind '{where}' '{where}' && mount -o remount,bind,ro '{where}'"
        if options == AS_IT_IS
        else f"mount -t tmpfs -o {options} none '{where}'"
        for options, where in mounts
    )
    return ("unshare", "-m", "sh", "-c", f'{commands} && exec "$@"', "sh")


def seen_by(server: Server, path: Path) -> Path:
    """Return where this process sees a directory of the server's own mounts."""
    return Path(f"/proc/{server.arbiter}/root{path}")


def fill(directory: Path) -> Path:
    stuffing = directory / "stuffing"
    with stuffing.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(directory).free == 0
    return stuffing


@pytest.mark.needs("root")
def test_a_run_directory_that_is_full_from_the_start(serve, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    server = serve("--run-dir", str(full), prefix=mounting(("size=64k", full)))
    assert server.wait_exit() == ExitCode.USAGE
    assert f"Error: run-dir: {str(full)!r} cannot hold the scoreboard: No space left on device" in server.log
    assert "Traceback" not in server.log


@pytest.mark.needs("root")
def test_a_full_shared_memory_costs_the_place_and_not_the_server(serve, tmp_path):
    run_dir = tmp_path / f"workerguard-{os.geteuid()}"
    environ = {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path)}
    prefix = mounting(("size=64k", Path("/dev/shm")))
    server = serve(run_dir=run_dir, environ=environ, prefix=prefix, workers=1)
    server.wait_ready()
    assert not list(seen_by(server, Path("/dev/shm")).glob("*/*")), "nothing half-made is left there"
    server.kill_worker()
    server.wait_event("ready", count=2)
    assert_healed(server, server.arbiter)


@pytest.mark.needs("root")
@pytest.mark.timeout(240)
def test_directories_that_fill_up_later(serve, tmp_path, faults, worker_class, subtests):
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    logs = ("--error-logfile", str(disk / "error.log"), "--access-logfile", str(disk / "access.log"))
    server = serve(
        *("--run-dir", str(memory), "-k", worker_class, "--", *logs),
        prefix=mounting(("size=16m", memory), ("size=256k", disk)),
    )
    server.board_directory = seen_by(server, memory)
    wait_whole(server)
    if worker_class == "sync":
        stuffing = fill(server.board_directory)
        with subtests.test("the run directory"):
            assert_lives_with_a_full_run_directory(server, faults)
        stuffing.unlink()
        faults.clear()
        wait_whole(server)
    with subtests.test("the disk of the logs"):
        assert_lives_with_full_logs(server, seen_by(server, disk))
    assert server.stop() == 0


def assert_lives_with_a_full_run_directory(server: Server, faults: Faults) -> None:
    since = Since(server)
    faults.set("ready", "memory", 2)
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    since.wait("load-failed", count=2)
    assert_healed(server, server.arbiter)


def assert_lives_with_full_logs(server: Server, disk: Path) -> None:
    since = Since(server)
    stuffing = fill(disk)
    victim = server.pids()[0]

    assert server.statuses(20) == {200: 20}
    os.kill(victim, signal.SIGKILL)
    since.wait("ready")
    assert server.statuses(20) == {200: 20}

    stuffing.unlink()
    server.kill_worker()
    since.wait("ready", count=2)
    assert "killed by SIGKILL" in (disk / "error.log").read_text()
    assert_healed(server, server.arbiter)


@pytest.mark.needs("root")
def test_stdout_and_stderr_on_a_full_disk(serve, tmp_path):
    server = serve(prefix=("sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh"), workers=1)
    server.wait_ready()
    server.kill_worker()
    server.wait_event("ready", count=2)
    assert_healed(server, server.arbiter)
    assert server.stop() == 0


@pytest.mark.needs("root")
def test_with_no_place_for_the_scoreboard_it_serves_and_says_so(serve, monkeypatch, capsys):
    nowhere = dict.fromkeys(("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"), "/proc/nowhere")
    name = f"nowhere{os.getpid()}"
    server = serve("--name", name, environ=nowhere, prefix=mounting(("ro", Path("/dev/shm"))))
    server.wait_log("(2 of 2)")
    server.wait_log("no directory can hold the scoreboard")
    assert "the workerguard commands cannot see this server" in server.log
    victim = server.get("/").pid
    os.kill(victim, signal.SIGKILL)
    server.wait_log(f"pid={victim} ended: killed by SIGKILL")
    server._poll("a third worker", lambda: server.log.count("ready after") == 3, 20)
    assert server.statuses(10) == {200: 10}
    assert server.get("/health/ready/").status == 200

    for name, value in nowhere.items():
        monkeypatch.setenv(name, value)
    assert main(["status", "--name", name]) == ExitCode.NO_SERVER
    assert capsys.readouterr().err.startswith("Error: no running server")
    assert server.stop() == 0


@pytest.mark.needs("root")
def test_a_start_needs_no_place_for_temporary_files():
    """As in a container whose root file system is read-only."""
    prefix = mounting(*((AS_IT_IS, Path(place)) for place in ("/var/tmp", "/tmp")))
    server = (sys.executable, "-m", "django_workerguard", "serve", "--print-config")
    environ = {
        **os.environ,
        "TMPDIR": "/proc/nowhere",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{PROJECT}",
        "DJANGO_SETTINGS_MODULE": "guinea_settings",
        "GUINEA_FAULTS": "/proc/nowhere",
    }
    command = (*prefix, "env", "--chdir=/proc", *server)  # the last place that tempfile tries
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stderr) == (0, ""), told
