"""Fifty replacements by every cause leave nothing behind, and a short storm refuses nobody wrongly; `make soak` does much more."""

from __future__ import annotations

from collections import Counter

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
    outcome = storm.storm(server, faults, seed=7, goes_on=lambda number: number < 40)
    assert outcome.faults() == [], outcome


def test_what_counts_as_wrongly_refused():
    loaded = [(10.0, 20.0), (30.0, 40.0)]
    assert storm.wrong([(12.0, 13.0)], loaded) == [(12.0, 13.0)]
    assert storm.wrong([(9.0, 13.0), (19.0, 21.0), (22.0, 23.0), (25.0, 31.0)], loaded) == []


def test_two_workers_one_after_the_other_count_as_one():
    loaded = [(10.0, 20.0), (19.0, 30.0), (30.0, 40.0)]
    assert storm.wrong([(18.0, 22.0), (29.0, 31.0)], loaded) == [(18.0, 22.0)]


def test_what_counts_as_a_fault_of_a_storm():
    def faults(answers, killed=2, wrong=(), errors=0):
        return storm.Outcome(Counter(), killed, Counter(answers), list(wrong), errors).faults()

    assert faults({200: 9, 503: 1, storm.LOST: 2}) == []
    assert faults({200: 9, storm.LOST: 3}) == ["3 requests lost by 2 killed workers"]
    assert faults({200: 9, 500: 1, "ConnectionRefusedError": 2}) == ["1 x 500", "2 x ConnectionRefusedError"]
    assert faults({503: 4}) == ["no request was served"]
    assert len(faults({200: 1, 503: 1}, wrong=[(1.0, 2.0)], errors=1)) == 2
