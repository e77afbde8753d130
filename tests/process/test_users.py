"""A server of root whose workers are nobody."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import stat
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.components import COMPONENTS
from tests.process.harness import ROOT
from tests.process.limits import a_python_that_nobody_may_run
from tests.process.monitors import ask, is_monitor, monitors
from tests.process.others import Plain, nginx_conf

pytestmark = pytest.mark.needs("root")

NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def tmp_path():
    """A directory that the user nobody may read. Each run of pytest that starts closes pytest's own directory to others."""
    with tempfile.TemporaryDirectory(prefix="workerguard-users-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def as_nobody(serve, tmp_path):
    """Serve as nobody, from a copy of the project that nobody may read."""

    def start(*arguments: str):
        log = tmp_path / "error.log"
        own = ("--user", "nobody", "--group", "nogroup", "--error-logfile", str(log))
        packages = {"PYTHONPATH": os.pathsep.join((str(ROOT), sysconfig.get_path("purelib")))}
        python = a_python_that_nobody_may_run()
        return serve(*arguments, "--", *own, project_copy=True, python=python, environ=packages), log

    return start


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_workers_are_nobody_and_still_tell_the_arbiter_at_once(as_nobody, load):
    server, _ = as_nobody("--load", load)
    server.wait_ready()
    assert {uid_of(pid) for pid in server.pids()} == {NOBODY}
    assert uid_of(server.arbiter) == 0
    assert server.statuses(6) == {200: 6}
    server.wait("the count", lambda status: sum(slot["requests"] for slot in status["slots"]) == 6)
    assert server.get("/health/ready/").status == 200
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait_event("exited")
    server.wait_ready()
    if load == "mold":
        assert uid_of(server.status()["mold"]["pid"]) == NOBODY
        assert {slot["mold"] for slot in server.status()["slots"]} == {server.status()["mold"]["pid"]}
    assert server.stop() == 0


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_a_log_rotation_kills_no_worker(as_nobody, load):
    server, log = as_nobody("--load", load)
    server.wait_ready()
    before = server.pids()
    log.rename(log.with_suffix(".1"))
    server.signal(signal.SIGUSR1)
    server._poll("a new log", log.exists, 20)
    server._poll("its owner", lambda: log.stat().st_uid == NOBODY, 20)
    assert server.statuses(10) == {200: 10}
    assert server.pids() == before
    assert not server.events("exited")


def test_the_monitor_is_nobody_too(as_nobody, tmp_path):
    path = tmp_path / "monitor.sock"
    server, _ = as_nobody("--monitor-bind", f"unix:{path}")
    server.wait_ready()
    assert ask(f"unix:{path}", "/ready/").body == "ok: 2 of 2 workers ready, 1 needed\n"
    (monitor,) = monitors(server)
    status = Path(f"/proc/{monitor}/status").read_text()
    nobodys = pwd.getpwuid(NOBODY).pw_gid
    assert re.search(rf"^Uid:(\s+{NOBODY}){{4}}$", status, re.MULTILINE), status
    assert re.search(rf"^Groups:\s+{nobodys}\s*$", status, re.MULTILINE), status
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, nobodys)
    for page in ("/", "/metrics", "/status.json", "/live/?format=json"):
        assert ask(f"unix:{path}", page, {"Accept": "application/openmetrics-text"}).status == 200
    server.signal(signal.SIGKILL)
    server.wait_exit()
    server._poll("its end", lambda: not is_monitor(monitor), 20)


def test_the_monitor_of_nobody_knows_the_token(as_nobody, tmp_path):
    path = tmp_path / "monitor.sock"
    server, _ = as_nobody("--monitor-bind", f"unix:{path}", "--health-token", "letmein")
    server.wait_ready()
    assert ask(f"unix:{path}", "/metrics").status == 403
    assert ask(f"unix:{path}", "/metrics", {"Authorization": "Bearer letmein"}).status == 200


def mode_and_owner(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


@pytest.mark.needs("nginx")
def test_an_nginx_of_another_user_may_connect_if_the_socket_is_its_groups(serve, tmp_path):
    """And nobody else: the socket of a site that several users share a host with."""
    group = grp.getgrnam("www-data").gr_gid
    run_dir = tmp_path / "run"
    for owner, mode, answer in ((":www-data", "660", 200), (":nogroup", "0660", 502)):
        server = serve("--socket-owner", owner, "--socket-mode", mode, run_dir=run_dir)
        server.wait_ready()
        run_dir.chmod(0o755)
        assert mode_and_owner(server.socket_path)[:2] == (0o660, 0)
        assert (mode_and_owner(server.socket_path)[2] == group) is (answer == 200)
        site = Plain(tmp_path)
        location = f"proxy_pass http://unix:{server.socket_path}; proxy_set_header Host localhost;"
        conf = nginx_conf(tmp_path, location, user="www-data")
        with site.running([COMPONENTS["nginx"].path() or "nginx", "-c", str(conf)], {}):
            assert site.get("/")[0] == answer
        assert server.stop() == 0


def test_the_owner_of_the_socket_is_who_the_option_names_and_not_who_the_workers_are(as_nobody):
    server, _ = as_nobody("--socket-owner", "daemon:www-data", "--socket-mode", "600")
    server.wait_ready()
    expected = (0o600, pwd.getpwnam("daemon").pw_uid, grp.getgrnam("www-data").gr_gid)
    assert mode_and_owner(server.socket_path) == expected
    assert server.statuses(2) == {200: 2}
