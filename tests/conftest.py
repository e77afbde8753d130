"""The `needs` marker: a test that wants nginx, wrk, uWSGI or root says so; and the order of the tests. Runs in pytest."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import components

# the modules that tests share have assertions too
pytest.register_assert_rewrite("tests.browser", "tests.process")

# tests change modules faster than the time in a .pyc file can tell; `make test` compiles what does not change
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

# No clock decides. CI has the same examples every time; everywhere else they are drawn anew.
settings.register_profile(
    "workerguard",
    deadline=None,
    derandomize=bool(os.environ.get("WORKERGUARD_REQUIRE_ALL")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("workerguard")


def pytest_report_header() -> str:
    return components.report() or "every component that a test needs is here"


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have half of the processes of pytest-xdist begin with the tests that take long, and the others with the rest.

    Those that take long wait more than they compute: tests that compute run beside them, and none is left for the end. They
    are those with a time limit of their own. pytest-xdist gives each process an equal share of the list, in its order, and
    one that has none left takes from the end of another's share.
    """
    long = [item for item in items if item.get_closest_marker("timeout")]
    short = [item for item in items if not item.get_closest_marker("timeout")]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    begin_long = (processes + 1) // 2
    left = len(items)
    items.clear()
    for number in range(processes):
        size = left // (processes - number)
        begin = long[number::begin_long] if number < begin_long else []
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
