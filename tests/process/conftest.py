"""Fixtures of the process tests: a project with switchable faults, and a server on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gunicorn
import pytest

from tests.components import leave_out
from tests.process.harness import PROJECT, WORKER_CLASSES, Faults, Server
from tests.process.limits import limit_file
from tests.process.shop import WAYS, Shop
from tests.process.short_starts import Project

# what docs/reference/versions.md says of older versions of gunicorn: the tests, and the version that passes them
PASSED_SINCE = {
    "test_a_failed_lifespan_is_a_failed_load[says-failed-asgi]": (27, 0, 0),
    "test_connections_during_a_replacement[asgi]": (27, 0, 0),
    "test_connections_during_a_replacement[asgi+asyncio]": (27, 0, 0),
    "test_the_incident[asgi]": (27, 0, 0),
    "test_each_fault_of_a_mold_costs_no_worker[asgi]": (27, 0, 0),
    "test_the_register_is_empty_after_errors_streams_aborts_recyclings_and_kills[asgi]": (27, 0, 0),
    "test_nginx_tells_the_application_by_uwsgi_what_it_tells_it_under_uwsgi[asgi]": (27, 0, 0),
    "test_only_a_trusted_peer_can_say_by_uwsgi_who_the_client_is[asgi-127.0.0.1-HTTP/1.0 200 ]": (27, 0, 0),
    "test_connections_during_a_replacement[gthread]": (27, 0, 1),
    "test_a_request_of_an_event_loop_can_be_cancelled[asgi]": (27, 0, 1),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    since = PASSED_SINCE.get(item.name, gunicorn.version_info)
    if gunicorn.version_info < since:
        pytest.skip(f"gunicorn {gunicorn.__version__} does not do it, see docs/reference/versions.md")


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path / "faults")


@pytest.fixture(params=WORKER_CLASSES.values(), ids=WORKER_CLASSES.keys())
def worker_class(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(tmp_path: Path, faults: Faults, request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Start servers that are taken down at the end; their logs are printed when the test failed."""
    servers: list[Server] = []

    def start(*arguments: str, project: Path = PROJECT, **options: Any) -> Server:
        environ = {
            "DJANGO_SETTINGS_MODULE": "guinea_settings",
            "GUINEA_FAULTS": str(faults.directory),
            **options.pop("environ", {}),
        }
        environ = {name: value for name, value in environ.items() if value is not None}
        run_dir = options.pop("run_dir", tmp_path / f"run{len(servers)}")
        if options.pop("project_copy", False):
            project = Path(shutil.copytree(project, tmp_path / f"project{len(servers)}"))
        workers = options.pop("workers", 2)
        first = ("-w", str(workers)) if workers else ()
        server = Server(project, run_dir, (*first, *arguments), environ=environ, **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.end()
        print(f"--- log of the server in {server.run_dir}\n{server.log}")


@pytest.fixture
def guinea_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the guinea project serve the dashboard and the metrics."""
    monkeypatch.setenv("GUINEA_PAGES", "1")


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """Make a cgroup with the memory controller; skip where this machine lets nobody make one.

    In cgroup v1 it lies two levels down: a server also counts the OOM kills one level below it, and the servers of the
    tests beside this one must not take them for theirs.
    """
    parents = [Path("/sys/fs/cgroup")]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            parents[:0] = [Path(f"/sys/fs/cgroup/memory{path}"), Path("/sys/fs/cgroup/memory")]
    for parent in parents:
        outer = parent / f"workerguard-test-{os.getpid()}"
        group = outer if parent == Path("/sys/fs/cgroup") else outer / "limited"
        with contextlib.suppress(OSError):
            group.mkdir(parents=True)
            if limit_file(group).exists():
                break
            _remove(group, outer)
    else:
        leave_out("no cgroup with the memory controller can be made here")
    yield group
    _remove(group, outer)


def _remove(*groups: Path) -> None:
    """Remove cgroups, and end what runs in them."""
    deadline = time.monotonic() + 20
    for group in groups:
        while group.exists() and time.monotonic() < deadline:
            for pid in (group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                group.rmdir()
            time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the guinea project, for starts that are expected to end by themselves."""
    return Project.copied(tmp_path)


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def shop(request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path: Path) -> Shop:
    """A project that the test writes, with each way of starting a server on it."""
    return Shop(serve, request.param, tmp_path / "shop")
