"""What the sentinel loads on a guess of its own is never why a site does not load, nor why Django warns."""

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
    import json, sys
    from dataclasses import asdict
    from django_workerguard.config.load_request import LoadRequest
    from django_workerguard.sentinel import describe_failure, load

    class Steps:
        def __init__(self): self.ended = []; self.current = None
        def begin(self, name): self.current = name
        def end(self, step): self.ended.append(asdict(step))

    opened = []
    from django.db.backends.signals import connection_created
    connection_created.connect(lambda connection, **_: opened.append(connection), weak=False)
    steps = Steps()
    failure = None
    try:
        load(LoadRequest(**json.loads(sys.argv[1])), steps)
    except BaseException as error:
        failure = describe_failure(error)
    print("result:" + json.dumps({
        "steps": {step["name"]: step for step in steps.ended}, "step": steps.current, "failure": failure,
        "opened": len(opened), "open": [c.alias for c in opened if c.connection is not None],
        "modules": [name for name in sys.modules if name.startswith(("site_", "django.core.mail", "django.conf.locale"))],
    }))
"""
SETTINGS = """
    SECRET_KEY = "not a secret in any way"
    ROOT_URLCONF = "site_urls"
    ALLOWED_HOSTS = ["*"]
    INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "django_workerguard"]
    MIDDLEWARE = []
    DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
    TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
"""
URLS = "urlpatterns = []"
WARMUP = ("urlconf", "templates", "lazy")


@pytest.fixture
def load(tmp_path):
    def load(
        settings: str = "", *, python: tuple[str, ...] = (), files: dict | None = None, **request
    ) -> dict:
        texts = {
            "site_settings": textwrap.dedent(SETTINGS) + textwrap.dedent(settings),
            "site_urls": URLS,
            **(files or {}),
        }
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "site_settings",
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
        }
        done = subprocess.run(
            [
                sys.executable,
                *python,
                "-c",
                textwrap.dedent(RUNNER),
                json.dumps({"warmup": WARMUP, **request}),
            ],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("result:")] or [done.stderr]
        return {**json.loads(line.removeprefix("result:")), "stderr": done.stderr}

    return load


def skipped(result: dict, step: str = "lazy") -> dict[str, str]:
    assert result["failure"] is None, result["failure"]["traceback"]
    return {part["part"]: part["type"] for part in result["steps"][step]["skipped"]}


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "MAILERS = {'default': {'BACKEND': 'django.core.mail.backends.console.EmailBackend'}, 'bulk': {}}",
    ],
    ids=["without-mailers", "with-mailers"],
)
def test_no_warning_of_django_comes_from_the_sentinel(load, settings):
    """With each warning an error, and cleansing too, which reads every setting."""
    result = load(settings, python=("-W", "error"), warmup=(*WARMUP, "languages"))
    assert skipped(result) == {}
    failed = load(
        settings + "\nAPI_TOKEN = 'tok-12345678'",
        python=("-W", "error"),
        load_probe=("site_probe:no",),
        files={
            "site_probe": "def no(): raise RuntimeError('refused tok-12345678')",
        },
    )
    assert failed["failure"]["type"] == "RuntimeError"
    assert "tok-12345678" not in failed["failure"]["traceback"]


def test_the_back_ends_of_mailers_are_loaded_and_a_broken_one_is_left_out(load):
    result = load(
        "MAILERS = {'default': {'BACKEND': 'site_mail.Backend'}, 'bulk': {'BACKEND': 'site_nowhere.Backend'}}",
        files={"site_mail": "class Backend: pass"},
    )
    assert skipped(result) == {"MAILERS: bulk": "ModuleNotFoundError"}
    assert "site_mail" in result["modules"]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ("EMAIL_BACKEND = 'site_broken.Backend'", "EMAIL_BACKEND: site_broken.Backend"),
        ("SESSION_ENGINE = 'site_broken'", "SESSION_ENGINE: site_broken"),
        ("AUTHENTICATION_BACKENDS = ['site_broken.Backend']", "AUTHENTICATION_BACKENDS: site_broken.Backend"),
        ("PASSWORD_HASHERS = ['site_broken.Hasher']", "PASSWORD_HASHERS"),
        ("AUTH_PASSWORD_VALIDATORS = [{'NAME': 'site_broken.Validator'}]", "AUTH_PASSWORD_VALIDATORS: site_broken.Validator"),
        ("INSTALLED_APPS += ['django.contrib.messages']\nMESSAGE_STORAGE = 'site_broken.Storage'", "MESSAGE_STORAGE: site_broken.Storage"),
        ("CACHES = {'default': {'BACKEND': 'django.core.cache.backends.locmem.LocMemCache'}, 'b': {'BACKEND': 'site_broken.Cache'}}", "CACHES: b"),
        ("DATABASES['legacy'] = {'ENGINE': 'site_broken'}", "DATABASES: legacy"),
        ("STORAGES = {'default': {'BACKEND': 'site_broken.Storage'}}", "STORAGES: default"),
        ("FILE_UPLOAD_HANDLERS = ['site_broken.Handler']", "FILE_UPLOAD_HANDLERS: site_broken.Handler"),
        ("FORM_RENDERER = 'site_broken.Renderer'", "FORM_RENDERER"),
        ("DEFAULT_EXCEPTION_REPORTER_FILTER = 'site_broken.Filter'", "DEFAULT_EXCEPTION_REPORTER_FILTER"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("fault", ["raise RuntimeError('out of order')", "raise SystemExit(3)"])
def test_a_broken_part_that_the_site_may_never_use_is_left_out(load, settings, part, fault):
    result = load(settings, files={"site_broken": fault})
    assert part in skipped(result)


def test_a_spare_database_without_its_driver(load):
    result = load(
        "DATABASES['legacy'] = {'ENGINE': 'django.db.backends.mysql'}",
        files={"MySQLdb": "raise ImportError('no driver')"},
    )
    assert skipped(result) == {"DATABASES: legacy": "ImproperlyConfigured"}


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ("CACHES = {'default': {'BACKEND': 'site_broken.Cache'}}", "CACHES: default"),
        ("DATABASES = {'default': {'ENGINE': 'site_broken'}}", "DATABASES: default"),
    ],
)
def test_a_default_that_no_request_uses_is_left_out_and_the_site_answers(load, settings, part):
    result = load(
        f"{settings}\nINSTALLED_APPS = ['django_workerguard']",
        files={
            "site_broken": "raise ImportError('no driver')",
            "site_urls": """
                from django.http import HttpResponse
                from django.urls import path
                urlpatterns = [path("", lambda request: HttpResponse("index"))]
            """,
        },
        warmup_path=["/"],
    )
    assert part in skipped(result)
    assert "warmup:/" in result["steps"]


DUMMY = "'default': {'BACKEND': 'django.core.cache.backends.dummy.DummyCache'}"
NEEDED = {
    "atomic-requests": "DATABASES['legacy'] = {'ENGINE': 'site_broken', 'ATOMIC_REQUESTS': True}",
    "page-cache": f"""
        MIDDLEWARE = ['django.middleware.cache.UpdateCacheMiddleware']
        CACHE_MIDDLEWARE_ALIAS = 'pages'
        CACHES = {{{DUMMY}, 'pages': {{'BACKEND': 'site_broken.Cache'}}}}
    """,
    "session-cache": f"""
        MIDDLEWARE = ['django.contrib.sessions.middleware.SessionMiddleware']
        SESSION_ENGINE = 'django.contrib.sessions.backends.cache'
        SESSION_CACHE_ALIAS = 'sessions'
        CACHES = {{{DUMMY}, 'sessions': {{'BACKEND': 'site_broken.Cache'}}}}
    """,
    "session-cache-default": """
        MIDDLEWARE = ['django.contrib.sessions.middleware.SessionMiddleware']
        SESSION_ENGINE = 'django.contrib.sessions.backends.cached_db'
        CACHES = {'default': {'BACKEND': 'site_broken.Cache'}}
    """,
    "session-cache-without-an-entry": f"""
        MIDDLEWARE = ['django.contrib.sessions.middleware.SessionMiddleware']
        SESSION_ENGINE = 'django.contrib.sessions.backends.cache'
        SESSION_CACHE_ALIAS = 'sessions'
        CACHES = {{{DUMMY}}}
    """,
    "models": "DATABASES = {'default': {'ENGINE': 'site_broken'}}",
    "middleware": "MIDDLEWARE = ['site_broken.Middleware']",
    "urlconf": "ROOT_URLCONF = 'site_broken'",
    "templates": "TEMPLATES = [{'BACKEND': 'site_broken.Engine'}]",
}


@pytest.mark.parametrize("settings", NEEDED.values(), ids=NEEDED)
def test_what_every_request_needs_fails_the_load(load, settings):
    assert load(settings, files={"site_broken": "raise RuntimeError('out of order')"})["failure"] is not None


def test_a_want_of_memory_fails_the_load_wherever_it_shows(load):
    result = load("EMAIL_BACKEND = 'site_hungry.Backend'", files={"site_hungry": "raise MemoryError"})
    assert (result["step"], result["failure"]["type"]) == ("lazy", "MemoryError")


def test_the_reason_is_cleansed_and_short(load):
    result = load(
        "API_TOKEN = 'tok-12345678'\nEMAIL_BACKEND = 'site_broken.Backend'",
        files={"site_broken": "raise RuntimeError('refused: tok-12345678 ' + 'x' * 500 + '\\nsecond line')"},
    )
    (part,) = result["steps"]["lazy"]["skipped"]
    assert part["message"].startswith("refused: ****")
    assert len(part["message"]) == 160


def test_only_the_language_of_the_site_is_loaded_unless_more_is_asked_for(load):
    settings = "LANGUAGE_CODE = 'de'\nLANGUAGES = [('de', 'German'), ('fr', 'French')]\nMIDDLEWARE = ['django.middleware.locale.LocaleMiddleware']"
    assert not [name for name in load(settings)["modules"] if name.startswith("django.conf.locale.fr")]
    more = load(settings, warmup=(*WARMUP, "languages"))
    assert "django.conf.locale.fr.formats" in more["modules"]
    assert list(more["steps"]) == ["app", *WARMUP, "languages"]


def test_urlconfs_that_a_request_chooses_are_loaded_when_they_are_named(load):
    files = {"site_api": "import site_api_views\nurlpatterns = []", "site_api_views": ""}
    assert "site_api_views" not in load(files=files)["modules"]
    assert "site_api_views" in load(files=files, urlconf=["site_api"])["modules"]
    broken = load(files={"site_api": "raise RuntimeError('out of order')"}, urlconf=["site_api"])
    assert (broken["step"], broken["failure"]["type"]) == ("urlconf", "RuntimeError")


READY = """
    from django.apps import AppConfig
    class Config(AppConfig):
        name = "site_app"
        def ready(self):
            from django.db import connection
            with connection.cursor() as cursor:
                cursor.execute("select 1")
"""


@pytest.mark.parametrize("urls", [URLS, "raise RuntimeError('out of order')"], ids=["loads", "fails"])
def test_a_connection_that_an_app_opens_in_ready_is_closed_after_the_load(load, urls):
    files = {"site_app/__init__": "", "site_app/apps": READY, "site_urls": urls}
    result = load("INSTALLED_APPS += ['site_app']", files=files)
    assert (result["failure"] is None) is (urls == URLS)
    assert (result["opened"], result["open"]) == (1, [])


def test_a_connection_of_a_cache_that_is_used_in_ready_is_closed_although_the_cache_does_not_close_it(load):
    """As Django's cache for Redis: it has a pool of connections, and its close() does nothing."""
    result = load(
        "INSTALLED_APPS += ['site_app']\nCACHES = {'default': {'BACKEND': 'site_cache.Cache'}}",
        files={
            "site_cache": """
                import socket, weakref
                from django.core.cache.backends.locmem import LocMemCache

                opened = weakref.WeakSet()

                class Cache(LocMemCache):
                    def __init__(self, *arguments):
                        super().__init__(*arguments)
                        self.sockets = socket.socketpair()
                        opened.update(self.sockets)
            """,
            "site_app/__init__": "",
            "site_app/apps": """
                from django.apps import AppConfig

                class Config(AppConfig):
                    name = "site_app"

                    def ready(self):
                        from django.core.cache import cache
                        cache.set("found", True)
            """,
            "site_probe": """
                import site_cache
                from django.core.cache import cache

                def closed():
                    assert not site_cache.opened
                    assert cache.get("found")
            """,
        },
        load_probe=("site_probe:closed",),
    )
    assert result["failure"] is None, result["failure"]["traceback"]


def test_what_is_known_to_be_harmless_is_no_finding(load):
    result = load(
        "INSTALLED_APPS += ['site_app']",
        files={
            "site_app/__init__": "",
            "site_app/apps": """
                import asyncio, socket, threading, time
                from django.apps import AppConfig
                from django.conf import settings

                class Config(AppConfig):
                    name = "site_app"

                    def ready(self):
                        self.loop = asyncio.new_event_loop()
                        self.listener = socket.create_server(("127.0.0.1", 0))
                        settings.SEARCH_URL = "http://localhost:%d/" % self.listener.getsockname()[1]
                        self.client = socket.create_connection(self.listener.getsockname())
                        self.elsewhere = socket.create_server(("127.0.0.1", 0))
                        self.stranger = socket.create_connection(self.elsewhere.getsockname())
                        work = lambda: time.sleep(60)
                        work.__module__ = "psycopg_pool.pool"
                        threading.Thread(target=work, daemon=True, name="pool-1-worker-0").start()
                        threading.Thread(target=time.sleep, args=(60,), daemon=True, name="poller").start()
            """,
        },
    )
    app = result["steps"]["app"]
    assert (app["threads_left"], app["sockets_left"]) == (2, 6)
    assert [name.rpartition(":")[0] or name for name in app["left"]] == [
        "thread",
        "listener:127.0.0.1",
        "listener:127.0.0.1",
        "socket:127.0.0.1",
    ]


def test_a_setting_that_cannot_be_read_is_no_failure(load):
    """Django refuses an empty SECRET_KEY when it is read, and this site never reads it."""
    result = load(
        "SECRET_KEY = ''\nAPI_TOKEN = 'tok-12345678'\nEMAIL_BACKEND = 'site_broken.Backend'",
        files={
            "site_urls": """
                import socket
                listener = socket.create_server(("127.0.0.1", 0))
                client = socket.create_connection(listener.getsockname())
                urlpatterns = []
            """,
            "site_broken": "raise RuntimeError('refused: tok-12345678')",
        },
    )
    (part,) = result["steps"]["lazy"]["skipped"]
    assert part["message"].startswith("refused: ****")
    assert len(result["steps"]["urlconf"]["left"]) == 2


def test_the_sentinel_asks_no_lazy_setting(load):
    result = load(
        """
        import sys
        from django.utils.functional import SimpleLazyObject

        def ask():
            print("the vault was asked", file=sys.stderr)
            raise RuntimeError("the vault is closed")

        API_TOKEN = SimpleLazyObject(ask)
        SEARCH = {"HOSTS": [("search", SimpleLazyObject(ask)), SimpleLazyObject(ask)], "PORT": SimpleLazyObject(ask)}
        EMAIL_BACKEND = "site_broken.Backend"
        """,
        files={
            "site_urls": """
                import socket
                listener = socket.create_server(("127.0.0.1", 0))
                client = socket.create_connection(listener.getsockname())
                urlpatterns = []
            """,
            "site_broken": "raise RuntimeError('out of order')",
        },
    )
    (part,) = result["steps"]["lazy"]["skipped"]
    assert part["message"] == "out of order"
    assert len(result["steps"]["urlconf"]["left"]) == 2
    assert "the vault was asked" not in result["stderr"]
