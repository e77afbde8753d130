"""When a pid file is stale."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from django_workerguard.errors import AlreadyRunningError, ExitCode
from django_workerguard.server.pid_file import remove_stale


@pytest.fixture
def program():
    """A process that passes for a server by its command line."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, "gunicorn: master [site]"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_that_is_no_server(tmp_path):
    path = tmp_path / "server.pid"
    with subprocess.Popen(["sleep", "100"]) as other:
        path.write_text(f"{other.pid}\n")
        said = remove_stale(str(path), where=None)
        other.kill()
    assert said == f"the pid file {path} was stale and has been removed: process {other.pid} is not a server"
    assert not path.exists()


def test_a_server_that_runs(tmp_path, program):
    path = tmp_path / "server.pid"
    path.write_text(f"{program.pid}\n")
    with pytest.raises(AlreadyRunningError, match=r"pidfile: the server with pid .*set in --pid") as caught:
        remove_stale(str(path), where="--pid")
    assert caught.value.exit_code == ExitCode.CANNOT_LISTEN
    assert path.exists()


def test_a_server_that_was_started_after_the_file_was_written(tmp_path, program):
    """The number was given to another server, after a crash or a restart of the machine."""
    path = tmp_path / "server.pid"
    path.write_text(f"{program.pid}\n")
    os.utime(path, (1e9, 1e9))
    assert "was started after the file was written" in str(remove_stale(str(path), where=None))
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "no number", str(1 << 70), "our own"])
def test_what_is_left_to_gunicorn(tmp_path, content):
    path = tmp_path / "server.pid"
    path.write_text(content.replace("our own", str(os.getpid())))
    assert remove_stale(str(path), where=None) is None
    assert path.exists()


def test_no_file(tmp_path):
    assert remove_stale(str(tmp_path / "server.pid"), where=None) is None
