"""When a pid file is stale."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from gunicorn.pidfile import Pidfile

from django_workerguard.errors import AlreadyRunningError, ExitCode
from django_workerguard.server.arbiter import GuardedArbiter
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


@pytest.mark.parametrize("content", ["0", "-1", "-2", str(1 << 31), str(1 << 70)])
def test_what_can_be_no_pid_is_stale(tmp_path, content):
    path = tmp_path / "server.pid"
    path.write_text(content)
    said = remove_stale(str(path), where=None)
    assert said == f"the pid file {path} was stale and has been removed: {content} is no pid"
    Pidfile(str(path)).create(os.getpid())


@pytest.mark.parametrize("content", ["", "no number", "our own"])
def test_what_is_left_to_gunicorn(tmp_path, content):
    path = tmp_path / "server.pid"
    path.write_text(content.replace("our own", str(os.getpid())))
    assert remove_stale(str(path), where=None) is None
    assert path.exists()


def test_no_file(tmp_path):
    assert remove_stale(str(tmp_path / "server.pid"), where=None) is None


def test_a_pid_file_without_its_directory_keeps_nothing_else_of_a_promotion_from_being_done():
    done = []

    def maybe_promote_master():
        arbiter.master_pid = 0
        raise RuntimeError("/run/gone doesn't exist. Can't create pidfile.")

    def survives(step, *arguments):
        try:
            step(*arguments)
        except RuntimeError:
            done.append("logged")
            return False
        return True

    def follow_options():
        done.append("options")
        raise RuntimeError

    arbiter = SimpleNamespace(
        pid=7,
        master_pid=5,
        maybe_promote_master=maybe_promote_master,
        follow_options=follow_options,
        _systemd=SimpleNamespace(main_pid=lambda pid: done.append(f"MAINPID={pid}")),
        _survives=survives,
    )
    survives(GuardedArbiter._promote, arbiter)
    assert done == ["logged", "options", "logged", "MAINPID=7"]
    done.clear()
    arbiter.maybe_promote_master = lambda: None
    GuardedArbiter._promote(arbiter)
    assert not done
