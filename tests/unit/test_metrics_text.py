"""The monitor's text of the metrics is the one that prometheus_client writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

from django_workerguard.contrib.prometheus import _metric
from django_workerguard.report.metrics import families, families_of_pools
from django_workerguard.report.metrics_text import _number, accepts_openmetrics, metrics_text
from tests.shots import MOLD, changed

HOSTILE = 'a "name" with \\ and\na line'


class Collector:
    def __init__(self, shot, pools):
        self.shot, self.pools = shot, pools

    def collect(self):
        for family in families(self.shot):
            yield _metric([("", family)])
        by_name = {}
        for pool, family in families_of_pools(self.pools):
            by_name.setdefault(family.name, []).append((pool, family))
        yield from map(_metric, by_name.values())

    def describe(self):
        return []


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize(
    "shot",
    [
        changed(),
        changed(
            slot={
                "durations": {
                    "2xx": {"buckets": [1, 2, 3], "seconds": 1.5},
                    "5xx": {"buckets": [0, 0, 1], "seconds": 7.25},
                }
            }
        ),
        changed(name=HOSTILE, mold={**MOLD, "hazards": ["thread: a", "socket: b"]}),
        changed(
            ready=0, stand_in=True, slot={"requests": 12345678, "rss_bytes": 87654321, "state": "back_off"}
        ),
    ],
)
def test_it_is_the_text_of_prometheus_client(shot, openmetrics):
    pools = [changed(name="celery@one"), changed(name=HOSTILE, slot={"requests": 3})]
    registry = CollectorRegistry()
    registry.register(Collector(shot, pools))
    generate = generate_openmetrics if openmetrics else generate_latest
    assert metrics_text(shot, pools, openmetrics=openmetrics) == generate(registry).decode()


def test_pools_alone_have_their_own_metrics_only():
    text = metrics_text(None, [changed(name="celery@one")])
    names = {line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")}
    assert names
    assert all(name.startswith("workerguard_pool_") for name in names)
    assert metrics_text(None, []) == ""


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 1 << 64))
def test_numbers_are_written_as_prometheus_client_writes_them(number):
    assert _number(number) == floatToGoString(number)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("text/html, application/openmetrics-text;version=1.0.0;q=0.5", True),
    ],
)
def test_the_format_is_the_one_that_the_client_accepts(accept, expected):
    assert accepts_openmetrics(accept) is expected
