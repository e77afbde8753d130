"""What the package index and pip would get: built from this checkout, without a network."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from django_workerguard import __version__

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", directory, cwd=ROOT)
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(built / f"django_workerguard-{__version__}-py3-none-any.whl")


def test_the_index_would_take_both_files(built):
    said = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built.iterdir())
    assert said.count("PASSED") == 2


def test_no_link_of_the_description_leads_into_nothing(wheel):
    described = wheel.read(f"django_workerguard-{__version__}.dist-info/METADATA").decode()
    targets = re.findall(r"\]\(([^)]+)\)", described)
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    tracked = run("git", "ls-files", "django_workerguard", cwd=ROOT).split()
    packed = {name for name in wheel.namelist() if not name.startswith("django_workerguard-")}
    assert packed >= set(tracked)
    assert all(name.startswith("django_workerguard/") for name in packed)


def test_the_source_has_what_a_build_needs(built):
    with tarfile.open(built / f"django_workerguard-{__version__}.tar.gz") as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= names


def test_the_installed_command_runs(built, tmp_path):
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path),
        *built.glob("*.whl"),
    )
    said = run(tmp_path / "bin" / "workerguard", "--version", env={"PYTHONPATH": tmp_path}, cwd=tmp_path)
    assert said == f"django-workerguard {__version__}\n"


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first
    assert first[1] == __version__


def test_the_workflows_run_what_the_project_runs():
    ci, release = (
        yaml.safe_load((ROOT / ".github/workflows" / name).read_text()) for name in ("ci.yml", "release.yml")
    )
    assert ".ci/run" in [step.get("run") for step in ci["jobs"]["suite"]["steps"]]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}, "a trusted publisher: no password"
    assert "build" in publish["needs"]
