"""A gunicorn of another version: a newer one serves with a warning, or is refused with the reason; an older one is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import gunicorn
import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import ROOT


def copy_of_gunicorn(directory: Path, version: tuple[int, int, int]) -> Path:
    """Make a copy of gunicorn that says that it is of this version."""
    copy = Path(shutil.copytree(Path(gunicorn.__file__).parent, directory / "library" / "gunicorn"))
    init = copy / "__init__.py"
    init.write_text(re.sub(r"version_info = .*", f"version_info = {version}", init.read_text()))
    return copy


@pytest.fixture
def newer(tmp_path):
    return copy_of_gunicorn(tmp_path, (99, 0, 0))


def start(serve, copy: Path):
    return serve(environ={"PYTHONPATH": f"{copy.parent}:{ROOT}"})


def test_an_older_one_is_refused(serve, tmp_path):
    server = start(serve, copy_of_gunicorn(tmp_path, (26, 0, 0)))
    assert server.wait_exit() == ExitCode.USAGE
    assert "it needs gunicorn 26.1 or newer, and gunicorn 26.0.0 is installed" in server.log


def test_a_newer_one_serves_with_one_warning(serve, newer):
    server = start(serve, newer)
    server.wait_ready()
    assert server.statuses(5) == {200: 5}
    assert server.log.count("gunicorn 99.0.0 is newer than the versions") == 1


CHANGES = {
    "arbiter.py": ("def reap_workers(self):", "def reap_workers(self, more=()):"),
    "errors.py": ("class HaltServer(", "class Halt("),
}
REASONS = {
    "arbiter.py": "gunicorn 99.0.0: Arbiter.reap_workers takes (self, more=()), not (self)",
    "errors.py": "it cannot be used with the gunicorn that is installed",
}


@pytest.mark.parametrize("file", CHANGES)
def test_a_newer_one_is_refused_if_something_has_changed_that_the_guard_leans_on(serve, newer, file):
    old, new = CHANGES[file]
    path = newer / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    server = start(serve, newer)
    assert server.wait_exit() == ExitCode.USAGE
    assert REASONS[file] in server.log
