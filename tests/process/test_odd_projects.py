"""Projects that are not ours, served as a new user would: through their own manage.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from django_workerguard.report.findings import assess
from tests.process.harness import ROOT, WORKER_CLASSES
from tests.process.shop import MANAGE_PY

MANAGE = ("manage.py", "serve_guarded")


def startproject(directory: Path) -> Path:
    directory.mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", str(directory)], check=True)
    return directory


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path = path.with_name(path.name + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def test_what_startproject_makes(serve, tmp_path, worker_class):
    project = startproject(tmp_path / "fresh")
    settings = project / "shop" / "settings.py"
    settings.write_text(
        settings.read_text() + "\nINSTALLED_APPS += ['django_workerguard']\nALLOWED_HOSTS = ['*']\n"
    )
    server = serve(
        "-k", worker_class, project=project, command=MANAGE, environ={"DJANGO_SETTINGS_MODULE": None}
    )
    server.wait_ready()
    assert server.get("/admin/login/").status == 200
    assert server.status()["name"] == "fresh"
    assert server.stop() == 0


def test_a_settings_package_without_database_admin_or_templates(serve, tmp_path):
    project = tmp_path / "bare"
    write(
        project,
        manage=MANAGE_PY.format(settings="conf.settings.production"),
        conf____init__="",
        conf__settings____init__="",
        conf__settings__base="""
            import os
            SECRET_KEY = os.environ["BARE_SECRET_KEY"]
            ROOT_URLCONF = "conf.urls"
            INSTALLED_APPS = ["django_workerguard"]
            TEMPLATES = []
            MIDDLEWARE = []
        """,
        conf__settings__production="""
            from conf.settings.base import *
            ALLOWED_HOSTS = [".example.com"]
            WORKERGUARD = {"WARMUP_PATH": "/"}
        """,
        conf__urls="""
            from django.http import HttpResponse
            from django.urls import include, path
            urlpatterns = [
                path("", lambda request: HttpResponse("bare")),
                path("health/", include("django_workerguard.urls")),
            ]
        """,
    )
    server = serve(
        project=project,
        command=MANAGE,
        environ={"BARE_SECRET_KEY": "from-outside", "DJANGO_SETTINGS_MODULE": None},
    )
    server.wait_ready()
    host = {"Host": "www.example.com"}
    assert server.get("/", headers=host).body == "bare"
    assert server.get("/health/", headers=host).status == 200
    assert server.get("/health/ready/").status == 200, "probes come before ALLOWED_HOSTS"


def test_a_thread_started_in_ready_is_reported_and_does_not_outlive_its_worker(serve, tmp_path):
    project = tmp_path / "threaded"
    write(
        project,
        manage=MANAGE_PY.format(settings="settings"),
        settings="""
            SECRET_KEY = "x" * 50
            ROOT_URLCONF = "urls"
            ALLOWED_HOSTS = ["*"]
            INSTALLED_APPS = ["worker_app", "django_workerguard"]
        """,
        urls="""
            from django.http import HttpResponse
            from django.urls import path
            urlpatterns = [path("", lambda request: HttpResponse("ok"))]
        """,
        worker_app____init__="",
        worker_app__apps="""
            import threading, time
            from django.apps import AppConfig

            class WorkerApp(AppConfig):
                name = "worker_app"

                def ready(self):
                    threading.Thread(target=lambda: time.sleep(3600), daemon=True, name="poller").start()
        """,
    )
    server = serve(project=project, command=MANAGE, environ={"DJANGO_SETTINGS_MODULE": None})
    server.wait_ready()
    steps = {step["name"]: step for step in server.slot(1)["load_steps"]}
    assert steps["app"]["threads_left"] == 1
    assert steps["app"]["left"] == ["thread:poller"]
    assert {finding.code for finding in assess(server.status())} == {"left-behind"}
    assert server.statuses(5) == {200: 5}
    assert server.stop() == 0


def test_a_wsgi_module_that_prepares_the_environment_comes_first(serve, tmp_path):
    """With Windows line ends, an application of its own name, and the secret set in its WSGI module."""
    project = tmp_path / "odd"
    write(
        project,
        serving="""
            import os
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
            os.environ["ODD_GREETING"] = "hello from the module"
            from django.core.wsgi import get_wsgi_application
            app = get_wsgi_application()
        """,
        settings="""
            import os
            SECRET_KEY = "x" * 50
            ROOT_URLCONF = "urls"
            ALLOWED_HOSTS = ["*"]
            WSGI_APPLICATION = "serving.app"
            GREETING = os.environ.get("ODD_GREETING", "nobody greets")
        """,
        urls="""
            from django.conf import settings
            from django.http import HttpResponse
            from django.urls import path
            urlpatterns = [path("", lambda request: HttpResponse(settings.GREETING))]
        """,
    )
    for path in project.glob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    server = serve(project=project, environ={"DJANGO_SETTINGS_MODULE": "settings"})
    server.wait_ready()
    assert server.get("/").body == "hello from the module"


@pytest.mark.parametrize("worker_class", ["asgi", WORKER_CLASSES["uvicorn"]])
def test_an_asgi_project_streams_events(serve, tmp_path, worker_class):
    project = tmp_path / "async"
    write(
        project,
        asgi="""
            import os
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
            from django.core.asgi import get_asgi_application
            application = get_asgi_application()
        """,
        settings="""
            SECRET_KEY = "x" * 50
            ROOT_URLCONF = "urls"
            ALLOWED_HOSTS = ["*"]
            ASGI_APPLICATION = "asgi.application"
        """,
        urls="""
            import asyncio
            from django.http import StreamingHttpResponse
            from django.urls import path

            async def events(request):
                async def lines():
                    for number in range(5):
                        yield f"data: {number}\\n\\n"
                        await asyncio.sleep(0.2)
                return StreamingHttpResponse(lines(), content_type="text/event-stream")

            urlpatterns = [path("", events)]
        """,
    )
    server = serve("-k", worker_class, project=project, environ={"DJANGO_SETTINGS_MODULE": "settings"})
    server.wait_ready()
    assert server.get("/").body.count("data:") == 5
    assert server.stop() == 0


@pytest.mark.parametrize("wsgi_app", ["shop_site", "shop_site:make()"])
def test_what_gunicorn_takes_as_wsgi_app_and_pythonpath(serve, tmp_path, wsgi_app):
    project = tmp_path / "moved"
    write(
        project,
        settings="""
            SECRET_KEY = "a key"
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "urls"
            INSTALLED_APPS = ["django_workerguard"]
        """,
        urls="""
            from django.http import HttpResponse
            from django.urls import path

            urlpatterns = [path("", lambda request: HttpResponse("moved"))]
        """,
        src__shop_site="""
            from django.core.wsgi import get_wsgi_application

            make = get_wsgi_application
            application = make()
        """,
        gunicorn__conf=f"""
            wsgi_app = "{wsgi_app}"
            pythonpath = "src"
        """,
    )
    (project / "gunicorn" / "conf.py").rename(project / "gunicorn.conf.py")
    server = serve(project=project, environ={"DJANGO_SETTINGS_MODULE": "settings"})
    server.wait_ready()
    assert server.get("/").body == "moved"


def test_a_package_that_only_manage_py_can_find(serve, tmp_path):
    """The project carries its libraries, and its manage.py names their directory."""
    project = tmp_path / "vendored"
    write(
        project,
        site_settings="""
            SECRET_KEY = "a key"
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "site_settings"
            urlpatterns = []
            INSTALLED_APPS = ["django_workerguard"]
        """,
        manage="import sys\n\nsys.path.insert(0, 'vendor')\n"
        + textwrap.dedent(MANAGE_PY.format(settings="site_settings")),
    )
    (project / "vendor").mkdir()
    (project / "vendor" / "django_workerguard").symlink_to(ROOT / "django_workerguard")
    server = serve(
        project=project, command=MANAGE, environ={"DJANGO_SETTINGS_MODULE": None, "PYTHONPATH": ""}
    )
    server.wait_ready()
    assert server.get("/health/ready/").status == 200


def test_parts_that_the_site_does_not_use_and_a_database_that_is_away(serve, tmp_path):
    """What is broken and not used becomes a finding; the start opens no connection, not even for its system checks."""
    project = tmp_path / "odd"
    write(
        project,
        manage=MANAGE_PY.format(settings="settings"),
        settings="""
            SECRET_KEY = "a key"
            ROOT_URLCONF = "urls"
            ALLOWED_HOSTS = ["*"]
            INSTALLED_APPS = ["django_workerguard", "records"]
            DATABASES = {"default": {"ENGINE": "away"}, "legacy": {"ENGINE": "no_such_driver"}}
            MAILERS = {"default": {"BACKEND": "no_such_mailer.Backend"}}
            DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
        """,
        urls="""
            from django.http import HttpResponse
            from django.urls import path
            urlpatterns = [path("", lambda request: HttpResponse("fine"))]
        """,
        away____init__="",
        away__base="""
            from django.db.backends.sqlite3 import base
            from django.db.utils import OperationalError

            class DatabaseWrapper(base.DatabaseWrapper):
                def get_connection_params(self):
                    with open("asked", "a") as file:
                        print("a connection", file=file)
                    raise OperationalError("the database is away")
        """,
        records____init__="",
        records__models="""
            from django.db import models

            class Record(models.Model):
                data = models.JSONField()
        """,
    )
    server = serve(project=project, command=MANAGE, environ={"DJANGO_SETTINGS_MODULE": None})
    server.wait_ready()
    assert server.get("/").body == "fine"
    assert not (project / "asked").exists()
    findings = assess(server.status())
    expected = {("part-not-loaded", 1), ("part-not-loaded", 2)}
    assert {(finding.code, finding.slot) for finding in findings} == expected
    text = " ".join(finding.text for finding in findings)
    assert "DATABASES: legacy cannot be loaded in step lazy" in text
    assert "MAILERS: default cannot be loaded in step lazy" in text


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_signal_handlers_that_the_site_sets_during_its_load_work_in_each_worker(
    serve, tmp_path, worker_class, load
):
    project = tmp_path / "signalled"
    write(
        project,
        manage=MANAGE_PY.format(settings="settings"),
        settings="""
            SECRET_KEY = "x" * 50
            ROOT_URLCONF = "urls"
            ALLOWED_HOSTS = ["*"]
            INSTALLED_APPS = ["django_workerguard"]
        """,
        urls="""
            import signal
            from django.http import HttpResponse
            from django.urls import path
            seen = []
            signal.signal(signal.SIGUSR2, lambda number, frame: seen.append(number))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            urlpatterns = [path("", lambda request: HttpResponse(str(len(seen))))]
        """,
    )
    environ = {"DJANGO_SETTINGS_MODULE": None}
    arguments = ("-k", worker_class, "--load", load)
    server = serve(*arguments, project=project, command=MANAGE, environ=environ, workers=1)
    status = server.wait_ready(1)
    os.kill(server.pids()[0], signal.SIGUSR2)
    server.wait("the handler", lambda _: server.get("/").body == "1")
    if load == "mold":
        os.kill(status["mold"]["pid"], signal.SIGTERM)
        server.wait_event("mold-ready", count=2)
    assert server.stop() == 0


def test_a_project_that_ignores_sigchld_is_checked(tmp_path):
    project = startproject(tmp_path / "ignoring")
    settings = project / "shop" / "settings.py"
    ignoring = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    settings.write_text(f"{settings.read_text()}\nINSTALLED_APPS += ['django_workerguard']\n{ignoring}")
    for load in ("lazy", "mold"):
        command = [sys.executable, *MANAGE, "--check", "--load", load]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "shop.settings"}
        outcome = subprocess.run(
            command, cwd=project, env=environ, capture_output=True, text=True, timeout=60
        )
        assert outcome.returncode == 0, outcome.stderr
        assert "Traceback" not in outcome.stderr
