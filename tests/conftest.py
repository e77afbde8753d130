"""The `needs` marker: a test that wants nginx, wrk, uWSGI or root says so; and the order of the tests. Runs in pytest."""

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


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each process of pytest-xdist begin with tests that take long: at the end it would be alone with them.

    They are those with a time limit of their own. At first each process gets an equal share of the list.
    """
    long = [item for item in items if item.get_closest_marker("timeout")]
    short = [item for item in items if not item.get_closest_marker("timeout")]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    left = len(items)
    items.clear()
    for number in range(processes):
        size = left // (processes - number)
        begin = long[number::processes]
        more = max(0, size - len(begin))
        items += [*begin, *short[:more]]
        del short[:more]
        left -= size
    items += short


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if reason := components.missing(name):
                components.leave_out(f"needs {name}: {reason}")
