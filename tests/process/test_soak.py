"""Fifty replacements by every cause leave nothing behind, and a short storm refuses nobody wrongly; `make soak` does much more."""

from __future__ import annotations

import pytest

from tests.process import storm
from tests.process.soak import OPTIONS, leaks, soak


@pytest.mark.timeout(400)
def test_fifty_replacements_leave_nothing_behind(serve, faults):
    server = serve(*OPTIONS)
    assert leaks(*soak(server, faults, 50, tell=print)) == []
    assert server.status()["arbiter"]["errors"] == 0


@pytest.mark.timeout(400)
def test_no_503_while_a_loaded_worker_is_there(serve, faults):
    server = serve(*storm.OPTIONS, workers=None)
    clients, lives, done = storm.storm(server, faults, seed=7, goes_on=lambda number: number < 40)
    assert storm.wrong(clients.refused, lives.loaded) == [], (done, clients.statuses)
    assert clients.statuses[200] > 0
    assert server.status()["arbiter"]["errors"] == 0


def test_what_counts_as_wrongly_refused():
    loaded = [(10.0, 20.0), (30.0, 40.0)]
    assert storm.wrong([(12.0, 13.0)], loaded) == [(12.0, 13.0)]
    assert storm.wrong([(9.0, 13.0), (19.0, 21.0), (22.0, 23.0), (25.0, 31.0)], loaded) == []
