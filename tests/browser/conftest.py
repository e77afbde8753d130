"""Fixtures of the browser tests: the example site under the guard, and Chromium under a strict policy."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.browser.board_site import BoardSite
from tests.components import COMPONENTS
from tests.process.harness import ROOT, Server

expect.set_options(timeout=60_000)  # ms until a test gives up; what it waits for takes a fraction of it

EXAMPLE = ROOT / "example_project"
SHOTS = Path(os.environ.get("WORKERGUARD_SCREENSHOTS", ROOT / "test-screenshots"))
PASSWORD = "correct horse battery staple"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Site(Server):
    """The example site, on a port that a browser can open."""

    @property
    def url(self) -> str:
        return next(address for address in self.status()["bind"] if address.startswith("http://127."))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the users admin (all rights), clerk (staff) and reader, to be copied."""
    path = tmp_path_factory.mktemp("database") / "db.sqlite3"
    environ = {"DJANGO_SETTINGS_MODULE": "site_config.settings", "EXAMPLE_DATABASE": str(path)}
    _manage(environ, "migrate", "--verbosity", "0")
    _manage(environ, "shell", "--verbosity", "0", "--command", USERS)
    return path


@contextlib.contextmanager
def serving(database: Path, directory: Path) -> Iterator[Site]:
    environ = {
        "DJANGO_SETTINGS_MODULE": "site_config.settings",
        "EXAMPLE_DATABASE": shutil.copy(database, directory),
        "EXAMPLE_RELEASE": "2026.11",
        "EXAMPLE_FAULTS": str(directory / "faults"),
    }
    site = Site(EXAMPLE, directory / "run", ("--bind", "127.0.0.1:0", "-w", "3"), environ=environ)
    site.start().wait_ready()
    try:
        yield site
    finally:
        site.end()
        print(site.log)


@pytest.fixture
def own_site(database: Path, tmp_path: Path) -> Iterator[Site]:
    """The example site, for a test that leaves it broken."""
    with serving(database, tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def shared_site(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(database, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The example site, for tests that leave three ready workers behind, or some that will be."""
    shared_site.wait_ready()
    return shared_site


@pytest.fixture(scope="module")
def _board_site() -> Iterator[BoardSite]:
    site = BoardSite()
    yield site
    site.end()


@pytest.fixture
def board_site(_board_site: BoardSite) -> Iterator[BoardSite]:
    """The dashboard over a board of the test's own."""
    yield _board_site
    _board_site.answers.set()
    _board_site.forget()


USERS = f"""
from django.contrib.auth.models import User
User.objects.create_superuser("admin", password={PASSWORD!r})
User.objects.create_user("clerk", password={PASSWORD!r}, is_staff=True)
User.objects.create_user("reader", password={PASSWORD!r})
"""


def _manage(environ: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "manage.py", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    done = subprocess.run(command, cwd=EXAMPLE, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser of the module's own: Playwright keeps an event loop running, which must not outlive its tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=COMPONENTS["chromium"].path(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page of a fresh browser; what its console says against it fails the test, and a failed test keeps a picture."""
    options = request.node.get_closest_marker("browser_context")
    context = browser.new_context(**(options.kwargs if options else {}))
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.route("**/*", _under_policy)
    page.complaints = complaints
    yield page
    if request.node.stash.get(FAILED, False):
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
    context.close()


# a worker that a test kills may have had a request of the page in hand: the page has to cope, and the browser says so
LOST = ("net::ERR_CONNECTION_REFUSED", "net::ERR_FAILED")


def _is_complaint(said) -> bool:
    return said.type in ("error", "warning") and not any(error in said.text for error in LOST)


def _under_policy(route) -> None:
    try:
        response = route.fetch(max_redirects=0)
        route.fulfill(response=response, headers={**response.headers, "content-security-policy": POLICY})
    except Error:  # nobody listens any more, or the page is being closed
        with contextlib.suppress(Error):
            route.abort("connectionrefused")


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report
