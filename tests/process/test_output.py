"""Output that cannot be written: one line says so, a reader that has closed its pipe is no error, and a failure stays one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import PROJECT, ROOT, TIMEOUT
from tests.process.short_starts import MANAGE, SERVE

FULL = "Error: the output cannot be written: No space left on device\n"
CLI = ("-m", "django_workerguard.cli")
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("status", "--watch", "60"),
    ("metrics",),
    ("events",),
    ("events", "--follow"),
    ("requests",),
    ("memory", "--json"),
    ("explain",),
    ("explain", "1"),
    ("stacks", "1"),
    ("reload",),
    ("reload", "--wait", "60"),
    ("completion", "bash"),
)
PROBES = (("probe", "live"), ("probe", "live", "--name", "guinea"))


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def run(request, tmp_path):
    """Run a command with an output that is full, or whose reader has gone; return its exit code and its errors."""

    def start(*arguments: str, full: bool, cwd=PROJECT, **environ: str) -> tuple[int, str]:
        if full:
            output = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, output = os.pipe()
            os.close(reader)
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("WORKERGUARD_")}
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=cwd,
                env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": request.param, **environ},
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=TIMEOUT,
            )
        finally:
            os.close(output)
        return done.returncode, done.stderr

    return start


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
def test_a_command(serve, run, full, subtests):
    server = serve()
    server.wait_ready()
    where = {"RUNTIME_DIRECTORY": str(server.run_dir), "XDG_RUNTIME_DIR": ""}
    for command in COMMANDS:
        with subtests.test(" ".join(command)):
            expected = (ExitCode.CANNOT_WRITE, FULL) if full else (ExitCode.OK, "")
            assert run(*CLI, *command, full=full, **where) == expected
    for command in PROBES:
        with subtests.test(" ".join(command)):
            assert run(*CLI, *command, full=full, **where) == (ExitCode.OK, FULL if full else "")
    with subtests.test("manage.py"):
        module = {"DJANGO_SETTINGS_MODULE": "guinea_settings"}
        code, said = run("manage.py", "workerguard", "status", full=full, **where, **module)
        assert (code, said) == ((ExitCode.CANNOT_WRITE, FULL) if full else (ExitCode.OK, ""))


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
@pytest.mark.parametrize("action", ["--check", "--print-config"])
@pytest.mark.parametrize("command", [SERVE, MANAGE], ids=["python -m", "manage.py"])
def test_a_server_that_does_not_serve(project, run, full, action, command):
    code, said = run(
        *command, "--bind", "127.0.0.1:0", action, full=full, cwd=project.path, **project.environ
    )
    assert (code, said) == ((ExitCode.CANNOT_WRITE, FULL) if full else (ExitCode.OK, ""))


def code_without_errors(*arguments: str, cwd=PROJECT, **environ: str) -> int:
    """Run a command whose standard error is full, and return its exit code."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("WORKERGUARD_")}
    with open("/dev/full", "w") as full:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**inherited, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": "", **environ},
            stdout=subprocess.DEVNULL,
            stderr=full,
            timeout=TIMEOUT,
        ).returncode


def test_errors_that_cannot_be_written_keep_their_exit_code(project, tmp_path, subtests):
    where = {"RUNTIME_DIRECTORY": str(tmp_path)}
    with subtests.test("status"):
        assert code_without_errors(*CLI, "status", **where) == ExitCode.NO_SERVER
    with subtests.test("from-uwsgi"):
        code = code_without_errors(*CLI, "from-uwsgi", "--", "--no-such-option", **where)
        assert code == ExitCode.INCOMPLETE
    with subtests.test("serve"):
        assert code_without_errors(*SERVE, "--no-such-option", **where) == ExitCode.USAGE
    project.write("guinea_urls.py", "1 / 0\n")
    with subtests.test("--check"):
        code = code_without_errors(*SERVE, "--check", cwd=project.path, **project.environ)
        assert code == ExitCode.LOAD_FAILED


def test_a_reload_whose_errors_cannot_be_written(serve):
    server = serve(project_copy=True)
    server.wait_ready()
    (server.project / "guinea_urls.py").write_text("1 / 0\n")
    where = {"RUNTIME_DIRECTORY": str(server.run_dir)}
    code = code_without_errors(*CLI, "reload", "--wait", "60", cwd=server.project, **where)
    assert code == ExitCode.LOAD_FAILED


# The exit code is the answer of these commands.


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
def test_a_check_of_a_project_that_cannot_load(project, run, full, subtests):
    project.write("guinea_urls.py", "1 / 0\n")
    for load in ("lazy", "mold"):
        with subtests.test(load):
            check = ("--bind", "127.0.0.1:0", "--check", "--load", load)
            code, said = run(*SERVE, *check, full=full, cwd=project.path, **project.environ)
            assert code == ExitCode.LOAD_FAILED
            assert said.splitlines()[-1].startswith(
                "Error: the load failed in step urlconf: ZeroDivisionError"
            )


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
def test_a_check_of_a_project_whose_workers_cannot_be_forked(project, run, full):
    project.write(
        "guinea_urls.py", "import socket; listener = socket.create_server(('127.0.0.1', 0))\nurlpatterns = []"
    )
    check = ("--bind", "127.0.0.1:0", "--check", "--load", "mold")
    code, said = run(*SERVE, *check, full=full, cwd=project.path, **project.environ)
    assert code == ExitCode.USAGE
    assert said.splitlines()[-1].startswith("Error: load: no worker can be forked from the application")


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
def test_a_reload_that_fails(serve, run, full):
    server = serve(project_copy=True)
    server.wait_ready()
    where = {"RUNTIME_DIRECTORY": str(server.run_dir), "XDG_RUNTIME_DIR": ""}
    (server.project / "guinea_urls.py").write_text("1 / 0\n")
    code, said = run(*CLI, "reload", "--wait", "60", full=full, cwd=server.project, **where)
    assert code == ExitCode.LOAD_FAILED
    assert "the load failed in step urlconf: ZeroDivisionError" in said.splitlines()[-1]


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
def test_a_translation(run, full, subtests):
    with subtests.test("complete"):
        code, said = run(*CLI, "from-uwsgi", "--", "--master", full=full)
        assert (code, said.endswith(FULL)) == (
            (ExitCode.CANNOT_WRITE, True) if full else (ExitCode.OK, False)
        )
    with subtests.test("incomplete"):
        code, said = run(*CLI, "from-uwsgi", "--", "--no-such-option", full=full)
        assert code == ExitCode.INCOMPLETE
        assert "no-such-option" in said
