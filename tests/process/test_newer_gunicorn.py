"""A gunicorn that is newer than the tested ones: it serves with a warning, or is refused with the reason."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import gunicorn
import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import ROOT


@pytest.fixture
def newer(tmp_path):
    """A copy of gunicorn that calls itself version 99."""
    copy = Path(shutil.copytree(Path(gunicorn.__file__).parent, tmp_path / "library" / "gunicorn"))
    init = copy / "__init__.py"
    init.write_text(re.sub(r"version_info = .*", "version_info = (99, 0, 0)", init.read_text()))
    return copy


def start(serve, newer: Path):
    return serve(environ={"PYTHONPATH": f"{newer.parent}:{ROOT}"})


def test_it_serves_with_one_warning(serve, newer):
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
def test_it_is_refused_if_something_has_changed_that_the_guard_leans_on(serve, newer, file):
    old, new = CHANGES[file]
    path = newer / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    server = start(serve, newer)
    assert server.wait_exit() == ExitCode.USAGE
    assert REASONS[file] in server.log
