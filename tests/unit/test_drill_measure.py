"""The figures and verdicts of a drill, on invented requests and workers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.drill.measure import (
    Measures,
    Ready,
    Request,
    Window,
    always_lost,
    least_ready,
    measure,
    percentile,
    was_in_hand,
)
from django_workerguard.drill.verdict import FAILED, OK, Promise, judge

WINDOW = Window(act="kill", begin=100.0, fault=101.0, end=110.0, back=103.5, kills=(101.0,))


def request(sent=102.0, seconds=0.01, status=200, path="/", error=""):
    return Request(path=path, sent=sent, seconds=seconds, status=status, error=error)


requests = st.lists(
    st.builds(
        request,
        sent=st.floats(90, 120),
        seconds=st.floats(0, 20),
        status=st.sampled_from((0, 200, 302, 404, 500, 503)),
        error=st.sampled_from(("", "nobody listens")),
    ),
    max_size=30,
)
changes = st.lists(st.tuples(st.floats(90, 120), st.integers(0, 8)), max_size=20).map(
    lambda pairs: [Ready(at, number) for at, number in sorted(pairs)]
)


@given(requests, changes)
def test_the_figures_are_those_of_the_requests_in_the_act(sent, ready):
    found = measure(WINDOW, sent, ready)
    inside = [one for one in sent if one.ended >= 100 and one.sent < 110]
    assert found.requests == len(inside)
    assert found.lost == sum(one.status == 0 or one.status >= 500 for one in inside)
    assert 0 <= found.in_hand <= found.lost
    assert bool(found.errors) == (found.lost > found.in_hand)
    assert found.back_after == 2.5
    if found.p99 is not None:
        assert found.p50 <= found.p99 <= max(one.seconds for one in inside if not one.is_lost)


@given(requests, changes)
def test_requests_outside_an_act_change_nothing(sent, ready):
    outside = [request(sent=80, seconds=1, status=500), request(sent=110.0, status=500)]
    assert measure(WINDOW, [*outside, *sent], ready) == measure(WINDOW, sent, ready)


@given(changes)
def test_the_least_number_is_one_that_was_seen(ready):
    least = least_ready(WINDOW, ready)
    assert least <= min((one.number for one in ready if 100 < one.at <= 110), default=least)
    assert least in {one.number for one in ready} | {0}


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ([Ready(90, 4)], 4),
        ([Ready(90, 4), Ready(101, 3), Ready(103, 4)], 3),
        ([Ready(90, 1), Ready(95, 4)], 4),
        ([Ready(90, 4), Ready(111, 0)], 4),
        ([], 0),
    ],
)
def test_the_number_at_the_begin_counts_and_what_is_later_does_not(change, least):
    assert least_ready(WINDOW, change) == least


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_enough_values_do_not_exceed(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6


def test_only_an_unanswered_request_in_progress_at_the_kill_was_in_hand():
    assert was_in_hand(request(sent=100.9, seconds=0.2, status=0), (101.0,))
    assert not was_in_hand(request(sent=100.9, seconds=0.2, status=503), (101.0,))
    assert not was_in_hand(request(sent=102.0, seconds=0.2, status=0), (101.0,))
    assert not was_in_hand(request(sent=100.9, seconds=0.2, status=0), ())


def test_a_path_that_never_answers_is_told_from_one_that_sometimes_does():
    sent = [
        request(path="/a", status=500),
        request(path="/a", status=0, error="nobody listens"),
        request(path="/b", status=500),
        request(path="/b", status=200),
    ]
    assert always_lost(sent) == {"/a": "status 500"}


GOOD = Measures(requests=100, lost=0, in_hand=0, errors=(), least_ready=4, back_after=1.0, p50=0.01, p99=0.02)


def test_nothing_lost_and_all_ready_is_right():
    assert judge(Promise(target=4, missing=0), GOOD).kind == OK


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lost": 2, "in_hand": 1, "errors": ("status 503 (1)",)}, "1 request was lost: status 503 (1)"),
        ({"lost": 2, "errors": ("status 503 (2)",)}, "2 requests were lost: status 503 (2)"),
        ({"least_ready": 2}, "only 2 of 4 workers were ready, and 3 were promised"),
        ({"back_after": None}, "the workers were not all ready again before the act ended"),
        ({"requests": 0}, "no request was sent, so nothing is known"),
    ],
)
def test_each_broken_promise_is_a_reason(change, reason):
    verdict = judge(Promise(target=4, missing=1), replace(GOOD, **change))
    assert (verdict.kind, verdict.reasons) == (FAILED, (reason,))


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 50), st.integers(0, 9), st.integers(0, 9))
def test_a_verdict_is_right_only_if_every_promise_is_kept(target, missing, least, lost, in_hand):
    in_hand = min(lost, in_hand)
    measures = replace(GOOD, least_ready=least, lost=lost, in_hand=in_hand)
    kept = lost == in_hand and least >= target - missing
    assert (judge(Promise(target=target, missing=missing), measures).kind == OK) == kept


def test_a_loss_without_any_fault_is_told_apart():
    verdict = judge(
        Promise(target=4, missing=0, has_fault=False), replace(GOOD, lost=1, errors=("status 500 (1)",))
    )
    assert verdict.kind == FAILED
    assert "there was no fault" in verdict.reasons[-1]
    calm = replace(GOOD, back_after=None)
    assert judge(Promise(target=4, missing=0, has_fault=False), calm).kind == OK


def test_what_the_act_has_seen_comes_first_and_one_worker_is_named_as_the_cause():
    verdict = judge(Promise(target=1, missing=1), replace(GOOD, back_after=None), ("the server has ended",))
    assert verdict.reasons[0] == "the server has ended"
    assert "the site has one worker" in verdict.reasons[-1]
