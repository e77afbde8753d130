"""The suite on every Python, Django, gunicorn and Celery that is supported: `nox`, or `nox -s suite -- tests/unit`.

WORKERGUARD_COMPONENTS    what tests/components.py installs for a session (default: everything)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"  # a quarter of the time that pip takes
nox.options.reuse_venv = "yes"

PIP = ("--seed",)  # components.py and a test use pip
# Django 6.0 and 6.1 need Python 3.12 or newer
PAIRS = [
    ("3.11", "5.2"),
    ("3.12", "5.2"),
    ("3.12", "6.0"),
    ("3.12", "6.1"),
    ("3.13", "5.2"),
    ("3.13", "6.0"),
    ("3.13", "6.1"),
]


@nox.session(venv_params=PIP)
@nox.parametrize("python,django", PAIRS, ids=[f"python{python}-django{django}" for python, django in PAIRS])
def suite(session: nox.Session, django: str) -> None:
    run_suite(session, f"Django~={django}.0")


@nox.session(python="3.11", venv_params=PIP)
def oldest(session: nox.Session) -> None:
    """The oldest gunicorn and Celery that are supported."""
    run_suite(session, "Django~=5.2.0", "gunicorn~=26.1.0", "celery~=5.5.0")


@nox.session(python="3.11", venv_params=PIP)
@nox.parametrize("celery", ["5.5", "5.6"])
def celery(session: nox.Session, celery: str) -> None:
    """The tests of the pool, on the Celery versions before the newest."""
    session.posargs[:] = session.posargs or [
        str(path) for path in sorted(Path("tests").glob("*/test_pool*.py"))
    ]
    run_suite(session, "Django~=5.2.0", f"celery~={celery}.0")


def run_suite(session: nox.Session, *pins: str, tests: Sequence[str] | None = None) -> None:
    session.install("--compile-bytecode", "--editable", ".[test]", *pins)
    names = os.environ.get("WORKERGUARD_COMPONENTS", "").split()
    session.run("python", "tests/components.py", "install", *names)
    session.run("python", "-m", "pytest", *(session.posargs if tests is None else tests))
