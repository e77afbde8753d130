"""``workerguard drill`` as a command, on a small site: the whole of it once, and each refusal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.process.harness import ROOT, TIMEOUT

SETTINGS = """
SECRET_KEY = "x" * 50
ALLOWED_HOSTS = [".example.org"]
ROOT_URLCONF = "small_urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": %(name)r}}
SECURE_SSL_REDIRECT = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
WORKERGUARD = {"WORKERS": 2, "PIDFILE": %(pidfile)r, "NAME": "site", "RUN_DIR": %(run_dir)r}
"""
URLS = """
from django.http import HttpResponse, HttpResponseServerError
from django.urls import path


def home(request):
    return HttpResponse(request.get_host())


urlpatterns = [path("", home), path("broken/", lambda request: HttpResponseServerError("always"))]
"""
HANGS = """
import pathlib, time
pathlib.Path(__file__).with_name("imported").touch()
time.sleep(600)
"""
CONF = """
import pathlib

HERE = pathlib.Path(__file__).parent
accesslog = str(HERE / "access.log")
statsd_host = "127.0.0.1:1"
worker_class = "gthread"


def when_ready(server):
    HERE.joinpath("announced").touch()


def on_exit(server):
    HERE.joinpath("withdrawn").touch()


def post_fork(server, worker):
    HERE.joinpath("forked").touch()
"""
QUICK = ("--calm", "0.3", "--hold", "0.3", "--clients", "2")
OPTIONS = ("--", "--load-timeout", "4", "--load-retry-delay", "0.05")


def heed_interrupts() -> None:
    """A suite that runs in a shell's background has SIGINT ignored, and the drill keeps that, as under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Site:
    """A small project in a directory, and the drill on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.pidfile, self.run_dir = directory / "site.pid", directory / "run"
        (directory / "small_urls.py").write_text(URLS)
        self.write_settings(":memory:")

    def write_settings(self, database: str, more: str = "") -> None:
        values = {"name": database, "pidfile": str(self.pidfile), "run_dir": str(self.run_dir)}
        (self.directory / "small_settings.py").write_text(SETTINGS % values + more)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
        return subprocess.Popen(
            [sys.executable, "-m", "django_workerguard.cli", "drill", *arguments],
            cwd=self.directory,
            env={
                **environ,
                "PYTHONPATH": f"{self.directory}:{ROOT}",
                "DJANGO_SETTINGS_MODULE": "small_settings",
                "NOTIFY_SOCKET": str(self.directory / "notify.sock"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - no other thread runs
        )

    def drill(self, *arguments: str) -> tuple[int, str, str]:
        """Run the drill to its end, and return its exit code, output and errors."""
        process = self.start(*arguments)
        with ended(process):
            output, errors = process.communicate(timeout=100)
        return process.returncode, output, errors


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(TIMEOUT)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def processes(site: Site, but: int) -> list[int]:
    """Return the pids of the processes that run in the project's directory."""
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == site.directory:
                pids.append(int(entry.name))
    return [pid for pid in pids if pid != but]


def is_reading(site: Site) -> bool:
    """Return whether the settings are being imported."""
    return (site.directory / "imported").exists()


def wait_until_gone(site: Site, but: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while left := processes(site, but):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def places(pid: int) -> list[Path]:
    """Return the directories and cgroups of the drill with this pid."""
    directories = [
        path for parent in ("/dev/shm", "/tmp") for path in Path(parent).glob(f"workerguard-drill-{pid}-*")
    ]
    return [*directories, *Path("/sys/fs/cgroup").glob(f"**/workerguard-drill-{pid}")]


def test_the_whole_drill_on_a_small_site(site):
    report, suite = site.directory / "report.html", site.directory / "junit.xml"
    (site.directory / "gunicorn.conf.py").write_text(CONF)
    files = ("--report", str(report), "--junit", str(suite))
    code, output, errors = site.drill("--json", *QUICK, *files, *OPTIONS)

    assert code == 0, output + errors
    document = json.loads(output)
    acts = {act["act"]: act for act in document["runs"][0]["acts"]}
    assert list(acts) == [
        "calm",
        "kill",
        "failing-loads",
        "hanging-load",
        "broken-reload",
        "reload",
        "recycle",
        "memory",
    ]
    played = {name: act for name, act in acts.items() if act["verdict"] != "skipped"}
    assert set(acts) - set(played) <= {"memory"}
    for name, act in played.items():
        assert act["verdict"] == "ok", (name, act)
        assert act["measures"]["requests"] > 0
        assert act["measures"]["lost"] == act["measures"]["in_hand"]
    assert acts["kill"]["measures"]["least_ready"] == 1
    assert acts["broken-reload"]["measures"]["least_ready"] == 2
    assert acts["hanging-load"]["measures"]["back_after"] >= 4, "the time-out of the load"
    changes = " ".join(document["changes"])
    assert f"pidfile: a private file (instead of {site.pidfile}, " in changes
    assert f"run-dir: a private directory (instead of {site.run_dir}, " in changes
    assert not site.pidfile.exists()
    assert not site.run_dir.exists()
    assert "(instead of <when_ready()>, " in changes
    assert "statsd-host: " in changes
    for touched in ("announced", "withdrawn", "access.log"):
        assert not (site.directory / touched).exists(), touched
    assert (site.directory / "forked").exists(), "the hooks of a worker are a part of its load"
    assert any(line.startswith("load=auto fits") for line in document["advice"])
    assert any('Set WORKERGUARD["WARMUP_PATH"] = ["/"]' in line for line in document["advice"])
    assert 'class="band"' in report.read_text()
    cases = ElementTree.parse(suite).getroot().findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == list(acts)
    assert not any(case.findall("failure") for case in cases)


def test_plain_gunicorn_loses_requests_in_the_incident_and_gets_no_verdict(site):
    acts = ("--act", "failing-loads", "--act", "recycle", "--against", "gunicorn", "--patience", "30")
    code, output, errors = site.drill("--json", *QUICK, *acts, *OPTIONS)
    assert code == 0, output + errors
    guarded, plain = json.loads(output)["runs"]
    assert [act["verdict"] for act in guarded["acts"]] == ["ok", "ok"]
    assert plain["server"] == "gunicorn"
    incident, recycle = plain["acts"]
    assert incident["verdict"] == "-"
    assert "the server has ended" in incident["notes"]
    assert recycle["verdict"] == "skipped"
    assert "no command that replaces one worker" in recycle["reasons"][0]


def test_a_broken_promise_is_a_failed_verdict_and_exit_code_1(site):
    alone = ("-w", "1", "--stand-in-after", "0")
    code, output, errors = site.drill("--act", "failing-loads", *QUICK, *OPTIONS, *alone)
    assert code == 1, output + errors
    assert "lost: status 503" in output
    assert "the site has one worker, so nothing can answer while it is replaced" in output
    assert "0 of 1 acts went as promised; failed: failing-loads." in output


def test_a_database_that_is_no_test_database_is_refused(site):
    site.write_settings("/srv/site.sqlite3")
    suite = site.directory / "junit.xml"
    code, output, errors = site.drill("--junit", str(suite))
    assert (code, output) == (2, "")
    assert "the database 'default' (sqlite3, /srv/site.sqlite3) is not a test database" in errors
    assert "set in DATABASES in small_settings" in errors
    assert "--read-only" in errors
    assert "starting" not in errors
    error = ElementTree.parse(suite).getroot().find("testsuite/testcase/error")
    assert "is not a test database" in error.get("message")


@pytest.mark.parametrize(
    ("more", "failure"),
    [
        ("import no_such_module", "the site cannot load: .*No module named 'no_such_module'"),
        ("ROOT_URLCONF = 'no_such_urls'", "the site cannot load[:.] .*No module named 'no_such_urls'"),
        ("WORKERGUARD['NO_SUCH'] = 1", "NO_SUCH"),
    ],
    ids=["settings", "application", "option"],
)
def test_a_site_that_cannot_load_is_refused_with_the_failure(site, more, failure):
    site.write_settings(":memory:", more)
    code, _, errors = site.drill()
    assert code == 2
    assert re.search(failure, errors.splitlines()[-1]), errors
    assert "starting" not in errors


def test_without_settings_the_drill_says_how_to_name_them(site):
    process = subprocess.run(
        [sys.executable, "-m", "django_workerguard.cli", "drill"],
        cwd=site.temporary,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "no settings module is set" in process.stderr
    assert "manage.py" in process.stderr


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nowhere/", "the path /nowhere/ does not exist: the site answers 404"),
        ("/broken/", "without any fault either (/broken/: status 500)"),
        ("no-slash", "'no-slash' is not a path that begins with a slash"),
    ],
)
def test_a_path_that_cannot_be_judged_is_refused(site, path, reason):
    code, _, errors = site.drill("--path", path, *QUICK, *OPTIONS)
    assert code == 2
    assert reason in errors


def test_a_path_that_is_always_broken_is_left_out_beside_one_that_answers(site):
    paths = ("--path", "/", "--path", "/broken/")
    code, output, errors = site.drill(*paths, "--act", "calm", *QUICK, *OPTIONS)
    assert code == 0, output + errors
    assert "/broken/ is left out: it never answers without any fault either (status 500)" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--act", "no-such"), "invalid choice: 'no-such'"),
        (("--report", "/no/such/directory/report.html"), "cannot be written (set in --report)"),
        (("--", "--no-such-option"), "unrecognized arguments: --no-such-option"),
    ],
    ids=["act", "report", "argument"],
)
def test_a_wrong_argument_is_named_before_anything_is_started(site, arguments, reason):
    code, _, errors = site.drill(*arguments)
    assert code == 2
    assert reason in errors
    assert "reading" not in errors


def test_beside_a_running_server_of_the_same_name_on_the_same_address(site, serve):
    running = serve(
        "--name",
        "site",
        project=site.directory,
        workers=1,
        environ={"DJANGO_SETTINGS_MODULE": "small_settings"} | {"PYTHONPATH": f"{site.directory}:{ROOT}"},
        run_dir=site.run_dir,
    )
    running.wait_ready()
    before = (sorted(site.run_dir.iterdir()), site.pidfile.read_text(), len(running.events()), running.pids())

    bind = ("--bind", f"unix:{running.socket_path}", "--run-dir", str(site.run_dir))
    code, output, errors = site.drill("--act", "kill", "--act", "reload", *QUICK, *OPTIONS, *bind)

    assert code == 0, output + errors
    after = (sorted(site.run_dir.iterdir()), site.pidfile.read_text(), len(running.events()), running.pids())
    assert after == before
    assert running.get(headers={"Host": "a.example.org", "X-Forwarded-Proto": "https"}).status == 200
    assert (
        f"bind: a private socket (instead of ['unix:{running.socket_path}'], --bind on the command line)"
        in output
    )


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("reading the settings", signal.SIGTERM),
        ("loading the site", signal.SIGINT),
        ("starting workerguard", signal.SIGTERM),
        ("workerguard: hanging-load", signal.SIGINT),
    ],
)
def test_a_signal_at_any_time_leaves_nothing_behind(site, moment, number):
    if moment == "reading the settings":
        site.write_settings(":memory:", HANGS)
    process = site.start("--act", "hanging-load", *QUICK, "--", "--load-timeout", "10")
    seen: list[str] = []
    with ended(process):
        assert process.stderr is not None
        for line in process.stderr:
            seen.append(line)
            if line.startswith(moment):
                break
        while moment == "reading the settings" and not is_reading(site):
            time.sleep(0.02)
        process.send_signal(number)
        process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, "".join(seen) + errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    wait_until_gone(site, process.pid)
    assert places(process.pid) == []


def test_the_servers_end_when_the_drill_is_killed(site):
    process = site.start("--act", "calm", "--calm", "60", *OPTIONS)
    with ended(process):
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("workerguard: calm"):
                break
        assert processes(site, process.pid) != []
        process.kill()
        process.communicate()
    wait_until_gone(site, process.pid)
    for place in places(process.pid):  # the killed drill could not remove them
        place.rmdir() if place.is_relative_to("/sys") else shutil.rmtree(place)
