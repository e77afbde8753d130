"""``workerguard from-uwsgi`` as a command, and servers that are started with what it prints."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import PROJECT, ROOT, TIMEOUT, UnixConnection

ENVIRON = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def from_uwsgi(
    *arguments: str, environ: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "django_workerguard.cli", "from-uwsgi", *arguments]
    return subprocess.run(
        command, env={**ENVIRON, **(environ or {})}, input=stdin, capture_output=True, text=True, timeout=60
    )


SITE = """\
[uwsgi]
site = {project}
chdir = %(site)
env = GUINEA_FAULTS={run}/faults
env = RUNTIME_DIRECTORY={run}
http-socket = {run}/http.sock
processes = 1
master = true
vacuum = true
harakiri = 30
max-requests = 5000
buffer-size = 32768
pidfile = {run}/pid
static-map = /static={run}
"""
KINDS = {
    # the settings are named only in the WSGI module, and there is no limit for a request
    "sync": "lazy-apps = true\nharakiri = 0\npythonpath = {run}\nmodule = shop.wsgi\n",
    "threads": "threads = 4\nlazy-apps = true\nlogto = {run}/log\nmodule = guinea_wsgi:application\n"
    "env = DJANGO_SETTINGS_MODULE=guinea_settings\n",
    "forked": "enable-threads = true\nwsgi-file = {project}/guinea_wsgi.py\n"
    "env = DJANGO_SETTINGS_MODULE=guinea_settings\n",
}
WSGI = """\
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guinea_settings")
application = get_wsgi_application()
"""
FORMS = {"sync": "command", "threads": "gunicorn-conf", "forked": "env"}


@contextmanager
def started(kind: str, translation: str, run: Path) -> Iterator[None]:
    serve = [sys.executable, "-m", "django_workerguard", "serve"]
    environ = dict(ENVIRON)
    match FORMS[kind]:
        case "command":
            shell = translation.replace("python -m", f"exec {shlex.quote(sys.executable)} -m", 1)
            serve = ["/bin/sh", "-c", shell]
        case "gunicorn-conf":
            (run / "conf.py").write_text(translation)
            serve += ["--config", str(run / "conf.py")]
        case "env":
            environ |= dict(line.split("=", 1) for line in shlex.split(translation, comments=True))
    with (run / "server.log").open("wb") as log:
        process = subprocess.Popen(serve, cwd=run, env=environ, stdout=log, stderr=log)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        print((run / "server.log").read_text())


def answer(path: Path) -> int:
    """Ask until the server answers."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        connection = UnixConnection(path, 10)
        try:
            connection.request("GET", "/", headers={"Host": "localhost"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_translated_configuration_starts_and_answers(tmp_path, kind):
    text = (SITE + KINDS[kind]).format(project=PROJECT, run=tmp_path)
    (tmp_path / "uwsgi.ini").write_text(text)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "wsgi.py").write_text(WSGI)
    told = from_uwsgi(str(tmp_path / "uwsgi.ini"), "--format", FORMS[kind])
    assert told.returncode == ExitCode.OK, told.stderr
    with started(kind, told.stdout, tmp_path):
        assert answer(tmp_path / "http.sock") == 200
    assert not (tmp_path / "pid").exists()


def test_the_exit_code_says_whether_something_is_lost(tmp_path):
    ini = tmp_path / "a.ini"
    ini.write_text("[uwsgi]\nhttp = :80\nlazy-apps = true\n")
    assert from_uwsgi(str(ini)).returncode == ExitCode.OK
    ini.write_text("[uwsgi]\nhttp = :80\ncheaper = 2\n")
    told = from_uwsgi(str(ini))
    assert told.returncode == ExitCode.INCOMPLETE
    assert f"{ini}:3" in told.stderr
    assert "WORKERGUARD = {" in told.stdout


def test_a_broken_file_is_one_line_with_file_and_line(tmp_path):
    ini = tmp_path / "a.ini"
    ini.write_text("[uwsgi\n")
    told = from_uwsgi(str(ini))
    assert told.returncode == ExitCode.USAGE
    assert told.stdout == ""
    assert told.stderr.startswith(f"Error: {ini}:1: ")
    assert len(told.stderr.splitlines()) == 1
    assert from_uwsgi().returncode == ExitCode.USAGE


def test_uwsgis_own_command_line_the_environment_and_the_standard_input(tmp_path):
    told = from_uwsgi(
        "--format", "env", "--env", "PORT=8001", "--", "--http", ":$(PORT)", "-p2", "--lazy-apps"
    )
    assert told.returncode == ExitCode.OK, told.stderr
    assert "WORKERGUARD_BIND=0.0.0.0:8001" in told.stdout
    assert "WORKERGUARD_WORKERS=2" in told.stdout
    told = from_uwsgi("-", environ={"UWSGI_HARAKIRI": "20"}, stdin="[uwsgi]\nhttp=:80\nlazy-apps=1\n")
    assert told.returncode == ExitCode.OK, told.stderr
    assert '"REQUEST_TIMEOUT": 20' in told.stdout
    assert "UWSGI_HARAKIRI in the environment" in told.stderr


def test_nothing_that_a_file_names_is_run_or_asked(tmp_path):
    """Every way in which uWSGI would run a program or ask another host while it reads its configuration."""
    ran = tmp_path / "ran"
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    ini = tmp_path / "a.ini"
    ini.write_text(
        f"[uwsgi]\nexec-asap = touch {ran}\nhook-asap = exec:touch {ran}\nx = @(exec://touch {ran})\n"
        f"ini = exec://touch {ran}\ny = @(http://{address}/x)\ninclude = http://{address}/a.ini\n"
        f"emperor = exec://touch {ran}\nplugins = {tmp_path}/evil.so\ndlopen = {tmp_path}/evil.so\n"
        f"print = @(call://system)\nresolve = z=invalid.\nattach-daemon = touch {ran}\nimport = evil\n"
        f"module = evil\npythonpath = {tmp_path}\neval = open('{ran}', 'w')\nconnect-and-read = {address}\n"
    )
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    told = from_uwsgi(str(ini), environ={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert told.returncode == ExitCode.INCOMPLETE
    assert not ran.exists()
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()
    server.close()


def test_the_other_commands_do_not_import_the_translator():
    code = "import sys, django_workerguard.cli.commands; print([m for m in sys.modules if 'from_uwsgi' in m])"
    told = subprocess.run([sys.executable, "-c", code], env=ENVIRON, capture_output=True, text=True)
    assert told.stdout == "[]\n", told.stderr
