"""The sentinel in a process of its own, as it runs in a worker: nothing of Django is imported before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = """
    import json, sys, threading
    from django_workerguard.config.load_request import LoadRequest
    from django_workerguard.sentinel import describe_failure, load

    class Seen:
        def __init__(self): self.steps = []; self.left = {}; self.current = None
        def begin(self, name): self.current = name
        def end(self, step): self.current = None; self.steps.append(step.name); self.left[step.name] = step.left

    told = json.loads(sys.argv[1])
    request = LoadRequest(app=told.get("app"), interface=told.get("interface", "wsgi"),
                          warmup=("urlconf", "templates", "lazy"), warmup_path=tuple(told.get("paths", ())),
                          load_probe=tuple(told.get("probes", ())), release="")
    seen = Seen()
    try:
        load(request, seen)
        failure = None
    except BaseException as error:
        failure = describe_failure(error)
    from django.db import connections
    try:
        open_connections = [c.alias for c in connections.all() if c.connection is not None]
    except Exception:
        open_connections = []
    print("told:" + json.dumps({"steps": seen.steps, "step": seen.current, "failure": failure, "open": open_connections, "left": seen.left,
                                "threads": [thread.name for thread in threading.enumerate()]}))
"""
SETTINGS = """
    SECRET_KEY = "the-secret-key-that-nobody-may-see"
    ROOT_URLCONF = "urls"
    ALLOWED_HOSTS = [".example.com"]
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
    MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "CONN_MAX_AGE": None, "PASSWORD": "hunter2hunter2"}}
    TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
"""
URLS = """
    from django.db import connection
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import include, path

    def index(request): return HttpResponse(request.get_host() + (" https" if request.is_secure() else ""))
    def database(request):
        with connection.cursor() as cursor: cursor.execute("select 1")
        return HttpResponse("ok")
    def hungry(request): raise MemoryError("no memory for the view")
    def broken(request): return HttpResponse("broken", status=503)
    def missing(request): return HttpResponse("missing", status=404)
    def stream(request): return StreamingHttpResponse(iter([b"a", b"b"]))

    urlpatterns = [path("", index), path("db", database), path("hungry", hungry), path("broken", broken),
                   path("missing", missing), path("stream", stream)]
"""
PROBES = """
    def good(): return None
    def says_no(): return False
    def leaks():
        raise RuntimeError("cannot log in with password=hunter2hunter2 at postgres://shop:hunter2hunter2@db/shop")
"""

IS_BLOCKING = """
    import os
    def is_blocking():
        from django.conf import settings
        return os.get_blocking(settings.LEFT.fileno())
"""


@pytest.fixture
def run(tmp_path):
    def run(request: dict, *, settings: str = "", urls: str = URLS, **files: str) -> dict:
        files = {
            "settings": textwrap.dedent(SETTINGS) + textwrap.dedent(settings),
            "urls": urls,
            "probes": PROBES,
            **files,
        }
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(RUNNER), json.dumps(request)],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("told:")] or [done.stderr]
        return json.loads(line.removeprefix("told:"))

    return run


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_whole_load(run, interface):
    told = run(
        {
            "interface": interface,
            "paths": ["/", "/db", "/missing", "/stream"],
            "probes": ["probes:good", "probes.good"],
        }
    )
    assert told["failure"] is None
    assert told["steps"][:4] == ["app", "urlconf", "templates", "lazy"]
    assert told["steps"][-1] == "probe:probes.good"
    assert told["open"] == [], "what the load opened is closed after it"
    assert told["threads"] == ["MainThread"]


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("/hungry", "MemoryError", "no memory for the view"),
        ("/broken", "WarmupError", "/broken got the status 503"),
    ],
)
def test_a_warm_up_request_that_fails_shows_the_real_cause(run, interface, path, kind, says):
    told = run({"interface": interface, "paths": [path]})
    assert (told["failure"]["type"], told["step"]) == (kind, f"warmup:{path}")
    assert says in told["failure"]["message"]


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
@pytest.mark.parametrize(
    "settings",
    [
        "SECURE_SSL_REDIRECT = True",
        "SECURE_SSL_REDIRECT = True\nSECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')",
    ],
)
def test_a_warm_up_request_goes_where_it_is_redirected_to(run, interface, settings):
    urls = URLS.replace(
        'def hungry(request): raise MemoryError("no memory for the view")',
        "def hungry(request): return HttpResponse(status=200 if request.is_secure() else 500)",
    )
    told = run({"interface": interface, "paths": ["/hungry"]}, settings=settings, urls=urls)
    assert told["failure"] is None


@pytest.mark.parametrize(
    "settings",
    [
        "USE_I18N = False",
        "USE_I18N = True\nLANGUAGE_CODE = 'de'\nMIDDLEWARE = ['django.middleware.locale.LocaleMiddleware']",
        "TEMPLATES = []",
        "DATABASES = {}\nINSTALLED_APPS = []",
        "ALLOWED_HOSTS = ['*']",
        "MIDDLEWARE = []\nROOT_URLCONF = 'urls'",
        "CACHES = {'default': {'BACKEND': 'django.core.cache.backends.locmem.LocMemCache'}}",
        "SESSION_ENGINE = 'django.contrib.sessions.backends.signed_cookies'\nINSTALLED_APPS = ['django.contrib.sessions']",
    ],
)
def test_odd_settings(run, settings):
    assert run({"paths": ["/"]}, settings=settings)["failure"] is None


@pytest.mark.parametrize(
    ("urls", "kind"),
    [
        ("raise RuntimeError('the URLconf is broken')", "RuntimeError"),
        (
            "from django.urls import path, include\nurlpatterns = [path('', include('nowhere'))]",
            "ModuleNotFoundError",
        ),
        ("import nothing_of_the_kind", "ModuleNotFoundError"),
        ("urlpatterns = 5", "ImproperlyConfigured"),
        ("urlpatterns = []\nhandler500 = 'no.such.view'", "ModuleNotFoundError"),
    ],
)
def test_a_urlconf_that_is_broken_anywhere(run, urls, kind):
    told = run({}, urls=urls)
    assert (told["step"], told["failure"]["type"]) == ("urlconf", kind)


@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        ("probes:says_no", "ProbeError"),
        ("probes:nothing", "WrongApplicationError"),
        ("nowhere:f", "ModuleNotFoundError"),
    ],
)
def test_a_probe_that_says_no(run, probe, kind):
    told = run({"probes": [probe]})
    assert (told["step"], told["failure"]["type"]) == (f"probe:{probe}", kind)


def test_secrets_are_redacted(run):
    told = run({"probes": ["probes:leaks"]})
    text = json.dumps(told["failure"])
    assert "hunter2" not in text
    assert "cannot log in" in text
    assert "postgres://shop:" in text


def test_secrets_are_cleansed_even_where_the_settings_could_not_be_read(run):
    told = run(
        {},
        settings="API_TOKEN = 'tok-12345678'\nraise RuntimeError('refused: tok-12345678, password=letmein99')",
    )
    text = json.dumps(told["failure"])
    assert told["step"] == "app"
    assert "tok-12345678" not in text
    assert "letmein99" not in text


@pytest.mark.parametrize(
    ("app", "interface", "says"),
    [
        ("site_wsgi:application", "asgi", "is a WSGI application"),
        ("site_asgi:application", "wsgi", "is an ASGI application"),
        ("site_wsgi:nothing", "wsgi", "has no 'nothing'"),
    ],
)
def test_an_application_of_the_wrong_kind(run, app, interface, says):
    made = "from django.core.{0} import get_{0}_application\napplication = get_{0}_application()"
    told = run(
        {"app": app, "interface": interface}, site_wsgi=made.format("wsgi"), site_asgi=made.format("asgi")
    )
    assert told["failure"]["type"] == "WrongApplicationError"
    assert says in told["failure"]["message"]


def test_the_release(tmp_path, monkeypatch):
    from django_workerguard.sentinel import release

    monkeypatch.setenv("GIT_SHA", "abc123")
    (tmp_path / "REVISION").write_text("v1.2.3\nbuilt today\n")
    assert release("env:GIT_SHA") == "abc123"
    assert release(f"file:{tmp_path}/REVISION") == "v1.2.3"
    assert release("call:platform:python_implementation") == "CPython"
    assert [release(spec) for spec in ("", "env:NOPE", "file:/nope", "call:nope:nope")] == ["", "", "", ""]


def test_looking_for_what_was_left_open_changes_no_flag_of_a_socket(run):
    """With `socket.setdefaulttimeout` Python makes each socket object non-blocking, with the descriptor behind it."""
    settings = """
    import os, socket
    LEFT = socket.create_server(("127.0.0.1", 0))
    socket.setdefaulttimeout(5)
    """
    told = run({"probes": ["os:getpid", "probes:is_blocking"]}, settings=settings, probes=IS_BLOCKING)
    assert told["failure"] is None
    assert told["left"]["app"][0].startswith("listener:127.0.0.1:")


def test_a_thread_that_is_about_to_end_was_not_left_behind(run):
    urls = URLS.replace(
        "return HttpResponse(request.get_host()",
        "threading.Thread(target=time.sleep, args=(0.02,)).start(); return HttpResponse(request.get_host()",
    )
    told = run({"paths": ["/"]}, urls="    import threading, time\n" + urls.lstrip("\n"))
    assert told["failure"] is None
    assert told["left"]["warmup:/"] == []
