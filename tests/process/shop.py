"""A project that a test writes, and the two ways of starting a server on it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_workerguard.cli.main import main
from django_workerguard.errors import ExitCode
from tests.process.harness import Server

WAYS = {"manage.py": ("manage.py", "serve_guarded"), "python -m": ("-m", "django_workerguard", "serve")}


MANAGE_PY = """
    import os
    import sys

    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")
    execute_from_command_line(sys.argv)
"""
SETTINGS = """
    import os
    from pathlib import Path

    HERE = Path(__file__).resolve().parent.parent
    SECRET_KEY = "x" * 50
    ALLOWED_HOSTS = ["*"]
    ROOT_URLCONF = "shop.urls"
    WSGI_APPLICATION = "shop.wsgi.application"
    INSTALLED_APPS = ["django_workerguard"]
    MIDDLEWARE = ["django_workerguard.middleware.GuardMiddleware"]
    GREETING = "one"
"""
URLS = """
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import include, path

    urlpatterns = [
        path("", lambda request: HttpResponse(settings.GREETING)),
        path("health/", include("django_workerguard.urls")),
    ]
"""
WSGI = """
    import os

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

    from django.core.wsgi import get_wsgi_application

    application = get_wsgi_application()
"""
READ_ENV_FILE = """
    for line in (HERE / ".env").read_text().split():
        name, _, value = line.partition("=")
        os.environ.setdefault(name, value)
"""


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def make_shop(directory: Path, *, settings: str = "", **files: str) -> Path:
    """Write a project with one page, which shows a setting. Names of files have ``__`` for a slash."""
    others = {name.replace("__", "/") + ".py": text for name, text in files.items()}
    base = {
        "manage.py": MANAGE_PY.format(settings="shop.settings"),
        "shop/__init__.py": "",
        "shop/settings.py": textwrap.dedent(SETTINGS) + textwrap.dedent(settings),
        "shop/urls.py": URLS,
        "shop/wsgi.py": WSGI,
    }
    write(directory, {**base, **others})
    return directory


@dataclass
class Shop:
    """A project and one way of starting it."""

    serve: Callable[..., Server]
    command: tuple[str, ...]
    directory: Path
    environ: dict[str, str | None] = field(default_factory=dict)

    @property
    def by_manage_py(self) -> bool:
        return self.command[0] == "manage.py"

    def make(self, *, settings: str = "", **files: str) -> None:
        make_shop(self.directory, settings=settings, **files)

    def write(self, name: str, text: str) -> None:
        write(self.directory, {name: text})

    def change(self, name: str, old: str, new: str) -> None:
        path = self.directory / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def start(self, *arguments: str, **options: Any) -> Server:
        module = {"DJANGO_SETTINGS_MODULE": None if self.by_manage_py else "shop.settings"}
        environ = {**module, **self.environ, **options.pop("environ", {})}
        options = {"project": self.directory, "command": self.command, "workers": 1, **options}
        server = self.serve(*arguments, environ=environ, **options)
        server.wait_ready()
        return server


def reloads(server: Server) -> str:
    """Reload, with success, and return the page."""
    # the command as a process of its own is tested in test_reload.py
    assert main(["reload", "--wait", "--run-dir", str(server.run_dir)]) == ExitCode.OK, server.log
    return server.get("/").body


def point_at(link: Path, release: Path) -> None:
    new = link.with_name("new")
    new.symlink_to(release)
    new.rename(link)
