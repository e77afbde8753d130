"""The package, or gunicorn, is upgraded on disk under a running server: no slot is lost for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import gunicorn
import pytest

from django_workerguard.report.findings import assess
from tests.process.harness import ROOT, Server

LATE_IN_GUNICORN = "instrument/statsd.py"  # an ASGI worker imports it after the fork


def upgrade(package: Path) -> None:
    """Give every function of the new version another name, as far as old modules call it in new ones."""
    for path in package.rglob("*.py"):
        path.write_text(path.read_text().replace("watch_memory_errors", "count_memory_errors") + "\n# new\n")


def replace_a_worker(server: Server) -> None:
    victim = server.kill_worker()
    server.wait(
        "another worker is ready in its place",
        lambda status: status["ready"] == 2 and status["slots"][0]["pid"] not in (None, victim),
    )


def remove(package: Path) -> None:
    shutil.rmtree(package)


@pytest.mark.parametrize("change", [upgrade, remove])
def test_workers_go_on_with_the_version_from_the_start(serve, tmp_path, change):
    library = tmp_path / "library"
    package = Path(shutil.copytree(ROOT / "django_workerguard", library / "django_workerguard"))
    server = serve(environ={"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"})
    server.wait_ready()
    assert "package-changed" not in {finding.code for finding in assess(server.status())}
    change(package)
    replace_a_worker(server)
    (finding,) = [one for one in assess(server.status()) if one.code == "package-changed"]
    assert finding.text.startswith("django_workerguard: changed on disk since the server started")
    assert server.statuses(10) == {200: 10}


def test_what_gunicorn_imports_late_is_of_its_version_from_the_start(serve, tmp_path):
    library = tmp_path / "library"
    package = Path(shutil.copytree(Path(gunicorn.__file__).parent, library / "gunicorn"))
    server = serve("-k", "asgi", environ={"PYTHONPATH": f"{library}:{ROOT}"})
    server.wait_ready()
    (package / LATE_IN_GUNICORN).write_text("raise RuntimeError('of another version')")
    replace_a_worker(server)
    (finding,) = [one for one in assess(server.status()) if one.code == "package-changed"]
    assert finding.text.startswith("gunicorn: changed")
