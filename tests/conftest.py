"""The `needs` marker: a test that wants nginx, wrk, uWSGI or root says so. Runs in pytest."""

from __future__ import annotations

import os

import pytest

from tests import components

REQUIRE_ALL = "WORKERGUARD_REQUIRE_ALL"


def pytest_report_header() -> str:
    return components.report() or "every component that a test needs is here"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if reason := components.missing(name):
                _leave_out(f"needs {name}: {reason}")


def _leave_out(reason: str) -> None:
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
