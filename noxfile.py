"""The suite on every Python, Django and gunicorn that is supported: `nox`, or `nox -s suite -- tests/unit`."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"

PAIRS = [("3.11", "5.2"), ("3.12", "5.2"), ("3.12", "6.0"), ("3.13", "6.0")]


@nox.session
@nox.parametrize("python,django", PAIRS, ids=[f"python{python}-django{django}" for python, django in PAIRS])
def suite(session: nox.Session, django: str) -> None:
    run_suite(session, f"Django~={django}.0")


@nox.session(python="3.11")
def oldest_gunicorn(session: nox.Session) -> None:
    run_suite(session, "Django~=5.2.0", "gunicorn~=26.1.0")


def run_suite(session: nox.Session, *pins: str) -> None:
    session.install("--editable", ".[test]", *pins)
    session.run("python", "tests/components.py", "install")
    session.run("python", "-m", "pytest", *session.posargs)
