"""The fixture for a project's own tests, in a project made by startproject."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.harness import ROOT

TESTS = """
import pytest
from django.contrib.auth.models import User


def test_it_serves_on_the_tests_database(guarded_server):
    User.objects.create(username="ada")
    reply = guarded_server.get("/users")
    assert (reply.status, reply.body) == (200, "ada")
    assert guarded_server.get("/users?add=grace").status == 200
    assert set(User.objects.values_list("username", flat=True)) == {"ada", "grace"}


def test_the_next_test_begins_empty(guarded_server):
    assert guarded_server.get("/users").body == ""


@pytest.mark.guarded_server("--load-retry-delay", "10ms", workers=3)
def test_a_broken_load_costs_one_worker_and_heals(guarded_server):
    guarded_server.break_loads("memory")
    killed = guarded_server.kill_worker(2)
    guarded_server.wait_event("load-failed", lambda event: event["slot"] == 2)
    assert guarded_server.statuses(20, "/users") == {200: 20}
    guarded_server.repair()
    status = guarded_server.wait_ready()
    assert killed not in [slot["pid"] for slot in status["slots"]]


@pytest.mark.parametrize("kind", ["exception", "exit", "kill"])
@pytest.mark.guarded_server("--load-retry-delay", "10ms", workers=2)
def test_faults_that_are_counted_end_by_themselves(guarded_server, kind):
    guarded_server.break_loads(kind, times=2)
    guarded_server.kill_worker()
    guarded_server.wait_event("load-failed", count=2)
    guarded_server.wait_ready()
    assert len(guarded_server.events("load-failed")) == 2


@pytest.mark.guarded_server(start=False)
def test_it_can_be_started_late(guarded_server):
    guarded_server.break_loads("exception")
    guarded_server.start()
    assert guarded_server.wait_exit() == 22


def test_a_mistake_in_the_kind(guarded_server):
    with pytest.raises(ValueError, match="memory, exception"):
        guarded_server.break_loads("nonsense")
"""
URLS = """
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path


def users(request):
    if "add" in request.GET:
        User.objects.create(username=request.GET["add"])
    return HttpResponse(",".join(User.objects.values_list("username", flat=True)))


urlpatterns = [path("users", users)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", tmp_path], check=True)
    (tmp_path / "shop" / "urls.py").write_text(URLS)
    (tmp_path / "test_site.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = shop.settings\npythonpath = .\n")
    configured(tmp_path, "DATABASES['default']['TEST'] = {'NAME': BASE_DIR / 'test.sqlite3'}")
    return tmp_path


def configured(project: Path, more: str) -> None:
    settings = project / "shop" / "settings.py"
    settings.write_text(
        settings.read_text().replace("ALLOWED_HOSTS = []", "ALLOWED_HOSTS = ['localhost']") + f"\n{more}\n"
    )


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "DJANGO_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env={**environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(400)
def test_a_projects_own_tests(project):
    told = run(project, "-x")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "8 passed" in told.stdout
    assert not (project / "db.sqlite3").exists(), "the configured database was never touched"


def test_a_database_in_memory_is_refused_with_what_to_do(project):
    configured(project, "DATABASES['default']['TEST'] = {}")
    told = run(project, "-k", "begins_empty")
    assert told.returncode == 1
    assert 'set DATABASES["default"]["TEST"]' in told.stdout


def test_without_a_database(project):
    configured(project, "DATABASES = {}")
    (project / "test_site.py").write_text(
        "def test_it(guarded_server):\n    assert guarded_server.get('/x').status == 404\n"
    )
    told = run(project)
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_misspelt_option_of_the_marker(project):
    (project / "test_site.py").write_text(
        "import pytest\n\n@pytest.mark.guarded_server(worker=3)\ndef test_it(guarded_server):\n    pass\n"
    )
    told = run(project)
    assert "no option worker" in told.stdout
