"""The `needs` marker: a test that wants nginx, wrk, uWSGI or root says so. Runs in pytest."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests import components

# No clock decides. CI has the same examples every time; everywhere else they are drawn anew.
settings.register_profile(
    "workerguard", deadline=None, derandomize=bool(os.environ.get("WORKERGUARD_REQUIRE_ALL"))
)
settings.load_profile("workerguard")


def pytest_report_header() -> str:
    return components.report() or "every component that a test needs is here"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if reason := components.missing(name):
                components.leave_out(f"needs {name}: {reason}")
