"""The fixture ``guarded_server`` for a project's own tests. Runs in pytest, which finds it automatically."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # pytest loads this plugin in every project, so it must be cheap to import
    from django_workerguard.testing import GuardedServer

PROBE = "django_workerguard.testing:fault_probe"
MARKER = (
    "guarded_server(*arguments, workers=2, worker_class='sync', environ=None, start=True): options for the server "
    "of the fixture guarded_server"
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def guarded_server(request: pytest.FixtureRequest) -> Iterator[GuardedServer]:
    """Start a real server for the project, wait until all workers are ready, and stop it after the test.

    The server uses the test databases of pytest-django and may write to them; it never uses the databases of the
    settings. The marker ``guarded_server`` sets its options. If the test fails, the server's log is printed.
    """
    from django_workerguard.testing import GuardedServer

    marker = request.node.get_closest_marker("guarded_server")
    options = dict(marker.kwargs) if marker else {}
    arguments = marker.args if marker else ()
    start = options.pop("start", True)
    workers, worker_class = options.pop("workers", 2), options.pop("worker_class", "sync")
    environ = {**_environ(request), **(options.pop("environ", None) or {})}
    if options:
        raise TypeError(f"the marker guarded_server has no option {', '.join(options)}: {MARKER}")
    # a short path, because paths of unix sockets are limited
    run_dir = Path(tempfile.mkdtemp(prefix="guarded-"))
    server = GuardedServer(
        project=request.config.rootpath,
        run_dir=run_dir,
        arguments=("-w", str(workers), "-k", worker_class, "--load-probe", PROBE, *map(str, arguments)),
        environ=environ,
    )
    try:
        if start:
            server.start().wait_ready()
        yield server
    finally:
        if server.process is not None:
            server.end()
            print(f"--- the log of the guarded server\n{server.log}")  # noqa: T201 - pytest shows it if the test has failed
        shutil.rmtree(run_dir, ignore_errors=True)


def _environ(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the environment variables with the server's settings and databases."""
    from django.conf import settings

    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        pytest.fail("guarded_server: set DJANGO_SETTINGS_MODULE, as for pytest-django", pytrace=False)
    module = settings.SETTINGS_MODULE or os.environ["DJANGO_SETTINGS_MODULE"]
    return {
        "DJANGO_SETTINGS_MODULE": "django_workerguard.testing.settings",
        "GUARDED_SERVER_SETTINGS": module,
        "GUARDED_SERVER_DATABASES": json.dumps(_databases(request)),
    }


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture, before pytest-django checks which databases a test needs."""
    users = [item for item in items if "guarded_server" in getattr(item, "fixturenames", ())]
    if not users:
        return
    config.stash[CONFIGURED] = _configured_databases()
    if config.stash[CONFIGURED] and config.pluginmanager.hasplugin("django"):
        for item in users:
            if item.get_closest_marker("django_db") is None:
                # other processes cannot see data that a test has not committed
                item.add_marker(pytest.mark.django_db(transaction=True, databases="__all__"))


def _configured_databases() -> dict[str, str]:
    """Return the names of the databases in the settings, by alias."""
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    try:
        databases = settings.DATABASES
    except ImproperlyConfigured:  # no settings module; the fixture reports it
        return {}
    return {
        alias: str(database.get("NAME", ""))
        for alias, database in databases.items()
        if database.get("ENGINE") not in (None, "", DUMMY)
    }


def _databases(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the names of the test databases, by alias."""
    from django.db import connections

    configured = request.config.stash[CONFIGURED]
    if not configured:
        return {}
    marker = request.node.get_closest_marker("django_db")
    if marker is None or not marker.kwargs.get("transaction"):
        pytest.fail(
            "guarded_server: install pytest-django, which makes the test database; if the test has its own marker, write "
            "django_db(transaction=True), because the server cannot see data that is not committed",
            pytrace=False,
        )
    names = {}
    for alias, name_in_settings in configured.items():
        connection: Any = connections[alias]
        name = str(connection.settings_dict["NAME"])
        if name == name_in_settings:
            continue  # the test has no test database for this alias, so the server cannot use it
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            pytest.fail(
                f"guarded_server: the test database {alias!r} is in this process's memory, and the server cannot see it; "
                f'set DATABASES["{alias}"]["TEST"] = {{"NAME": BASE_DIR / "test.sqlite3"}} in the settings of the tests',
                pytrace=False,
            )
        names[alias] = name
    return names


DUMMY = "django.db.backends.dummy"
CONFIGURED = pytest.StashKey[dict[str, str]]()
