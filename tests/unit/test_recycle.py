"""Single rules of recycling, and who stands out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.policy import action as a
from django_workerguard.policy import message as m
from django_workerguard.policy.fold import fold
from django_workerguard.policy.outlier import outliers, recent
from django_workerguard.policy.plan import next_deadline, plan
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.recycle import is_stalled, is_stuck, lifetime, recycled_often, why_due
from django_workerguard.policy.view import Fleet, Policy, State
from django_workerguard.scoreboard.layout import LARGEST_WORD
from tests.unit.fleets import Start, ready_fleet, told

MB = 1 << 20
BASE = {"stand_in": False, "timeout": 0.0, "load_concurrency": 2, "min_worker_lifetime": 10.0}


def counted(
    fleet: Fleet, seat: int, *, at: float, requests=0, errors=0, memory_errors=0, policy: Policy
) -> Fleet:
    reading = m.Reading(seat, State.READY, 1, requests=requests, errors=errors, memory_errors=memory_errors)
    return told(fleet, m.Observed((reading,), at), policy=policy)


def measured(fleet: Fleet, seat: int, *sizes: int, at: float, policy: Policy) -> Fleet:
    for number, size in enumerate(sizes):
        fleet = told(fleet, m.Measured(((seat, size * MB),), at + number), policy=policy)
    return fleet


def test_the_delta_counts_slots_from_the_second_on():
    policy = Policy(max_requests=100, max_requests_delta=10, **BASE)
    fleet = ready_fleet(3, policy=policy)
    for seat in (1, 2, 3):
        fleet = counted(fleet, seat, requests=110, at=20.0, policy=policy)
    due = [why_due(policy, fleet, fleet.workers[seat], 20.0) for seat in (1, 2, 3)]
    assert due == [Reason(Rule.MAX_REQUESTS, "110 of 100"), Reason(Rule.MAX_REQUESTS, "110 of 110"), None]


def test_jitter_is_the_same_for_the_same_worker():
    policy = Policy(max_requests=100, max_requests_jitter=50, **BASE)
    fleet = counted(ready_fleet(1, policy=policy), 1, requests=150, at=20.0, policy=policy)
    assert why_due(policy, fleet, fleet.workers[1], 20.0) == Reason(Rule.MAX_REQUESTS, "150 of 130")


def test_servers_that_were_started_together_do_not_recycle_together():
    limits = {
        lifetime(Policy(max_worker_lifetime=100.0, seed=seed, **BASE), ready_fleet(1).workers[1])
        for seed in (0.0, 0.25, 0.5, 0.99)
    }
    assert len(limits) == 4
    assert min(limits) == 100.0
    assert max(limits) <= 105.0


def test_min_worker_lifetime_protects_from_the_moment_of_being_ready():
    policy = Policy(max_requests=1, max_worker_lifetime=1.0, **BASE)
    fleet = counted(ready_fleet(1, policy=policy), 1, requests=9, memory_errors=1, at=5.0, policy=policy)
    assert why_due(policy, fleet, fleet.workers[1], 9.9) is None
    assert next_deadline(policy, fleet, 9.5) == 10.0
    assert why_due(policy, fleet, fleet.workers[1], 10.0)


def test_an_unloaded_worker_is_not_protected_and_leaves_at_its_lifetime():
    policy = Policy(need_app="off", max_worker_lifetime=5.0, **BASE)
    fleet = told(Fleet(target=2), Start(1, 1, 101, 60.0, 0.0), policy=policy)
    fleet = told(fleet, m.Observed((m.Reading(1, State.UNLOADED, 1),), 1.0), policy=policy)
    assert not [action for action in plan(policy, fleet, 4.9) if isinstance(action, a.Retire)]
    assert a.Retire(1, Reason(Rule.MAX_WORKER_LIFETIME, "5 s of 5")) in plan(policy, fleet, 5.0)


@pytest.mark.parametrize(
    ("sizes", "due"),
    [
        ((50, 120, 120, 120), True),
        ((50, 120, 120), False),
        ((50, 120, 90, 120, 120), False),
        ((130, 130, 130, 130), False),
    ],
)
def test_three_samples_in_a_row_make_a_worker_too_large_unless_it_began_so(sizes, due):
    policy = Policy(reload_on_rss=100 * MB, **BASE)
    fleet = measured(ready_fleet(1, policy=policy), 1, *sizes, at=20.0, policy=policy)
    assert bool(why_due(policy, fleet, fleet.workers[1], 30.0)) is due


def test_evil_kills_one_at_a_time_never_the_last_and_stops_where_it_leads_nowhere():
    policy = Policy(evil_reload_on_rss=100 * MB, **BASE)
    fleet = ready_fleet(2, policy=policy)
    for seat in (1, 2):
        fleet = measured(fleet, seat, 50, 150 + seat, at=20.0, policy=policy)
    kill = a.Kill(2, Reason(Rule.EVIL_RELOAD_ON_RSS, "152 MB of 100 MB, 2 ready"), evil=True)
    assert kill in plan(policy, fleet, 20.0)
    fleet = told(fleet, m.Killed(2, kill.reason, 20.0, evil=True), m.Exited(2, 20.1), policy=policy)
    assert not [action for action in plan(policy, fleet, 40.0) if isinstance(action, a.Kill)], "the last one"

    for kills in (1, 2):
        assert not fleet.record(2).evil_suspended
        at = 100.0 * kills
        fleet = told(fleet, Start(2, 2, 300, 60.0, at), m.Admitted(2, at), policy=policy)
        fleet = counted(fleet, 2, at=at, policy=policy)
        fleet = measured(fleet, 2, 50, 150, at=at, policy=policy)
        fleet = told(fleet, m.Killed(2, kill.reason, at + 10, evil=True), m.Exited(2, at + 10), policy=policy)
    assert fleet.record(2).evil_suspended
    assert not told(fleet, m.GenerationStarted(500.0), policy=policy).record(2).evil_suspended


def test_where_a_successor_finds_no_memory_the_largest_goes_first():
    policy = Policy(max_worker_lifetime=30.0, **BASE)
    fleet = ready_fleet(3, policy=policy)
    for seat, size in ((1, 100), (2, 300), (3, 200)):
        fleet = measured(fleet, seat, size, at=20.0, policy=policy)
    for number, slot in enumerate((1, 1, 2, 2)):
        fleet = told(
            fleet,
            Start(slot, 9, 900, 60.0, 40.0 + number, Reason(Rule.MAX_WORKER_LIFETIME)),
            policy=policy,
        )
        fleet = told(fleet, m.Exited(9, 40.5 + number, memory=True), policy=policy)
    (retired,) = plan(policy, fleet, 44.0)  # and nothing is started beside it in the same plan
    assert isinstance(retired, a.Retire)
    assert (retired.seat, retired.makes_room) == (2, True)
    assert retired.reason.text.endswith(
        "it leaves first, because there was no memory for a successor beside it"
    )
    fleet = told(fleet, m.Asked(2, retired.reason, 44.0, makes_room=True), policy=policy)
    for now in (44.0, 60.0, 90.0):
        assert plan(policy, fleet, now) == (), "one at a time, and no load while it still holds its memory"
    fleet = told(fleet, m.Exited(2, 90.0, clean=True), policy=policy)
    assert [type(action) for action in plan(policy, fleet, 90.0)] == [a.Spawn]


def test_the_quorum_is_kept_even_where_there_is_no_memory():
    policy = Policy(max_worker_lifetime=30.0, min_loaded=3, **BASE)
    fleet = ready_fleet(3, policy=policy)
    for number in range(2):
        fleet = told(
            fleet,
            Start(1, 9, 900, 60.0, 40.0 + number, Reason(Rule.MAX_WORKER_LIFETIME)),
            m.Exited(9, 40.5 + number, memory=True),
            policy=policy,
        )
    assert not [action for action in plan(policy, fleet, 44.0) if isinstance(action, a.Retire)]


def fleet_with(rates: list[tuple[int, int]], *, policy: Policy) -> Fleet:
    fleet = ready_fleet(len(rates), policy=policy)
    for seat, (requests, errors) in enumerate(rates, 1):
        fleet = counted(fleet, seat, requests=requests, errors=errors, at=20.0, policy=policy)
    return fleet


def standing_out(rates: list[tuple[int, int]], *, policy: Policy) -> list[int]:
    fleet = fleet_with(rates, policy=policy)
    return sorted(outliers(policy, fleet, 20.0))


OUTLIERS = Policy(outlier_min_requests=50, **BASE)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([(100, 100), (100, 0)], [1]),
        ([(100, 100), (100, 100)], []),
        ([(40, 40), (100, 0)], []),  # too few to say
        ([(100, 100), (10, 0)], []),  # its peers have shown too little
        ([(100, 4), (1000, 0)], []),
        ([(100, 50)] + [(100, 1)] * 63, [1]),
        ([(100, 90)] * 20 + [(100, 1)] * 44, list(range(1, 21))),
        ([(100, 30)] * 64, []),
    ],
)
def test_who_stands_out(rates, expected):
    assert standing_out(rates, policy=OUTLIERS) == expected


@given(st.integers(2, 64), st.integers(50, 2000), st.floats(0, 1))
def test_where_all_fail_alike_nobody_stands_out(count, requests, rate):
    assert standing_out([(requests, int(requests * rate))] * count, policy=OUTLIERS) == []


@given(st.integers(2, 64), st.integers(50, 2000))
def test_one_that_always_fails_stands_out_in_every_size_of_fleet(count, requests):
    assert standing_out([(requests, requests)] + [(requests, 0)] * (count - 1), policy=OUTLIERS) == [1]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=20))
def test_a_worker_is_compared_with_the_healthier_half_of_its_peers(rates):
    policy = OUTLIERS
    fleet = fleet_with([(requests, min(errors, requests)) for requests, errors in rates], policy=policy)
    counts = {seat: recent(worker, 20.0) for seat, worker in fleet.workers.items()}
    for seat, reason in outliers(policy, fleet, 20.0).items():
        peers = [count for other, count in counts.items() if other != seat and count[0]]
        peers.sort(key=lambda count: (count[1] / count[0], -count[0]))
        half = peers[: (len(peers) + 1) // 2]
        expected = f"{sum(errors for _, errors in half)} of {sum(requests for requests, _ in half)} of its"
        assert expected in reason.text


@given(
    st.lists(st.tuples(st.integers(0, LARGEST_WORD), st.integers(0, LARGEST_WORD)), min_size=2, max_size=8)
)
def test_counters_of_any_value_can_be_compared(rates):
    """A worker may have damaged its own, and its errors are read after its requests."""
    fleet = fleet_with(rates, policy=OUTLIERS)
    assert all(
        errors <= requests for requests, errors in (recent(one, 20.0) for one in fleet.workers.values())
    )
    outliers(OUTLIERS, fleet, 20.0)


def test_counters_that_have_fallen_show_no_requests():
    fleet = fleet_with([(100, 100), (100, 0)], policy=OUTLIERS)
    fleet = told(fleet, m.Measured(((1, MB), (2, MB)), 20.0), policy=OUTLIERS)
    fleet = counted(fleet, 1, at=21.0, policy=OUTLIERS)
    assert min(recent(fleet.workers[1], 79.0)) == 0


def test_more_errors_than_requests_make_no_outlier_of_the_peers():
    assert standing_out([(60, 60), (60, 62)], policy=OUTLIERS) == []


def test_a_seat_that_is_free_again_has_no_outlier_in_it():
    policy = OUTLIERS
    fleet = fleet_with([(100, 100), (100, 0)], policy=policy)
    fleet = told(fleet, m.Measured(((1, MB), (2, MB)), 20.0), policy=policy)
    assert list(fleet.outliers) == [1]
    assert not told(fleet, m.Exited(1, 20.5), policy=policy).outliers


def test_what_was_long_ago_does_not_count():
    policy = OUTLIERS
    fleet = fleet_with([(100, 100), (100, 0)], policy=policy)
    for at in range(21, 90):
        fleet = told(fleet, m.Measured(((1, MB), (2, MB)), float(at)), policy=policy)
    assert not fleet.outliers


def test_a_target_of_a_new_generation_counts_once_it_has_proved_itself():
    policy = Policy(**BASE)
    fleet = told(ready_fleet(2, policy=policy), m.GenerationStarted(50.0, 4), policy=policy)
    assert fleet.target == 2
    fleet = told(fleet, Start(1, 9, 900, 60.0, 50.0, Reason(Rule.RELOAD)), m.Exited(9, 51.0), policy=policy)
    assert (fleet.target, fleet.frozen) == (2, True)
    fleet = told(fleet, Start(1, 9, 901, 60.0, 52.0, Reason(Rule.RELOAD)), policy=policy)
    fleet = counted(fleet, 9, at=53.0, policy=policy)
    assert (fleet.target, fleet.frozen) == (4, False)


def test_a_message_about_a_seat_that_is_free_changes_nothing():
    policy = Policy(**BASE)
    fleet = ready_fleet(1, policy=policy)
    assert fold(policy, fleet, m.Measured(((77, MB),), 20.0)) == fleet


BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
FAST, QUICK, SLOW, ENDLESS = (100,), (0, 100), (0, 0, 0, 0, 100), (0, 0, 0, 0, 0, 0, 100)


def timed(*durations: tuple[int, ...], policy: Policy = OUTLIERS, at: float = 20.0) -> Fleet:
    """Return a fleet whose workers have served requests with these counts of buckets."""
    fleet = ready_fleet(len(durations), policy=policy)
    counts = tuple((seat, (*one, *[0] * (16 - len(one)))) for seat, one in enumerate(durations, 1))
    return told(fleet, m.Timed(counts, BOUNDS, at), policy=policy)


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([SLOW, FAST], [1]),
        ([SLOW, FAST, FAST, FAST], [1]),
        ([SLOW, SLOW, FAST, FAST, FAST], [1, 2]),
        ([SLOW, SLOW], []),
        ([SLOW, SLOW, SLOW, FAST], []),  # most of them are slow
        ([(0, 0, 0, 0, 40), FAST], []),  # too few to say
        ([SLOW, (40,)], []),  # its peers have shown too little
        ([QUICK, FAST], []),  # five times as slow, and still quick
        ([(0, 0, 0, 100), (0, 0, 100)], []),  # not three times as slow for certain: the buckets are coarse
        ([(60, 0, 0, 0, 40), FAST], []),  # its median is as low as theirs
        ([(45, 0, 0, 0, 55), (60, 0, 0, 0, 40)], []),  # a mixture of fast and slow views
        ([ENDLESS, FAST], [1]),
        ([ENDLESS, ENDLESS], []),
        ([SLOW], []),
    ],
)
def test_which_worker_is_slow(durations, expected):
    assert sorted(timed(*durations).slow) == expected


def test_the_numbers_of_a_slow_worker():
    assert timed((10, 0, 0, 0, 90), FAST).slow[1] == Reason(
        Rule.OUTLIER_LATENCY, "90 of its last 100 requests took longer than 0.1 s, 0 of 100 of its peers'"
    )


histograms = st.lists(st.integers(0, 500), min_size=16, max_size=16).map(tuple)


@given(st.lists(histograms, min_size=1, max_size=10))
def test_a_slow_worker_has_a_median_far_above_that_of_its_peers(durations):
    for seat in timed(*durations).slow:
        own, peers = durations[seat - 1], durations[: seat - 1] + durations[seat:]
        pooled = [sum(counts) for counts in zip(*peers, strict=True)]

        def median(counts):
            return next(n for n in range(16) if 2 * sum(counts[: n + 1]) >= sum(counts))

        assert median(pooled) < len(BOUNDS), "there is no limit above the last bucket"
        at_least = BOUNDS[min(median(own), len(BOUNDS)) - 1]
        assert at_least >= max(3 * BOUNDS[median(pooled)], 0.1)


@given(st.integers(2, 64), histograms)
def test_where_all_take_alike_no_worker_is_slow(count, durations):
    assert not timed(*[durations] * count).slow


def test_a_slow_worker_is_replaced_only_where_that_was_asked_for():
    for value, reason in (("report", None), ("off", None), ("eject", Rule.OUTLIER_LATENCY)):
        policy = Policy(outlier_latency=value, outlier_min_requests=50, **BASE)
        fleet = timed(SLOW, FAST, policy=policy)
        due = why_due(policy, fleet, fleet.workers[1], 20.0)
        assert (due and due.rule) == reason
        assert bool(fleet.slow) == (value != "off")


def test_what_a_worker_took_long_ago_does_not_count_and_a_free_seat_is_not_slow():
    fleet = timed(SLOW, FAST)
    assert not told(fleet, m.Exited(1, 20.5), policy=OUTLIERS).slow
    before = tuple((seat, worker.durations[-1].counts) for seat, worker in fleet.workers.items())
    for at in range(30, 120, 10):
        assert bool(fleet.slow) == (at <= 70)
        fleet = told(fleet, m.Timed(before, BOUNDS, float(at)), policy=OUTLIERS)


def test_words_that_a_worker_has_damaged_make_no_worker_slow():
    assert not timed((1 << 63,) * 16, (0,) * 16).slow
    fleet = timed(SLOW, FAST)
    fleet = told(fleet, m.Timed(((1, (0,) * 16), (2, (0,) * 16), (77, FAST)), BOUNDS, 30.0), policy=OUTLIERS)
    assert not fleet.slow


def stalled(seconds: float, policy: Policy) -> Fleet:
    reading = m.Reading(1, State.READY, 1, stalled=seconds)
    return told(ready_fleet(2, policy=policy), m.Observed((reading,), 1.0), policy=policy)


@pytest.mark.parametrize("action", ["replace", "cancel", "report"])
def test_a_worker_whose_executor_begins_no_call_is_replaced_as_one_with_an_overdue_request(action):
    policy = Policy(**BASE, request_timeout=30.0, request_timeout_action=action)
    for seconds, due in ((0.0, False), (29.9, False), (30.0, action != "report")):
        fleet = stalled(seconds, policy)
        assert bool(why_due(policy, fleet, fleet.workers[1], 1.0)) == due
    unlimited = Policy(**BASE)
    fleet = stalled(1e6, unlimited)
    assert why_due(unlimited, fleet, fleet.workers[1], 1.0) is None


def test_a_worker_is_stalled_from_timeout_on():
    for timeout, expected in ((30.0, True), (60.0, False), (0.0, False)):
        policy = Policy(**{**BASE, "timeout": timeout})
        assert is_stalled(policy, stalled(30.0, policy).workers[1]) is expected


@pytest.mark.parametrize(
    ("long", "waiting", "backlog", "accepts_ahead", "expected"),
    [
        (2, 0, 1, False, True),
        (2, 0, None, False, True),  # nobody knows whether a connection waits
        (2, 0, 0, False, False),
        (1, 0, 1, False, False),
        (2, 1, 0, True, True),  # it has accepted what it has no thread for
        (2, 0, None, True, False),
        (1, 1, 0, True, False),
    ],
)
def test_a_worker_is_stuck_if_others_wait_for_its_busy_threads(
    long, waiting, backlog, accepts_ahead, expected
):
    policy = Policy(**BASE, threads=2, accepts_ahead=accepts_ahead)
    reading = m.Reading(1, State.READY, 1, in_flight=2, waiting=waiting, long=long)
    fleet = told(ready_fleet(1, policy=policy), m.Observed((reading,), 1.0), policy=policy)
    fleet = told(fleet, m.Measured((), 1.0, backlog), policy=policy)
    assert is_stuck(policy, fleet, fleet.workers[1]) is expected


def recycled_at(*recycles: tuple[Rule, float]) -> Fleet:
    """Return a fleet in which slot 1's worker was asked to leave by these rules, one after the other, at these times."""
    fleet = ready_fleet(1)
    for rule, at in recycles:
        fleet = told(fleet, m.Asked(1, Reason(rule, ""), at))
    return fleet


RSS, REQUESTS = Rule.RELOAD_ON_RSS, Rule.MAX_REQUESTS


@pytest.mark.parametrize(
    ("recycles", "now", "often"),
    [
        ([(RSS, 100.0), (RSS, 400.0), (RSS, 900.0)], 1000.0, RSS),
        ([(RSS, 100.0), (RSS, 400.0), (RSS, 900.0)], 1000.1, None),  # no longer within 15 minutes
        ([(RSS, 100.0), (RSS, 400.0)], 1000.0, None),
        ([(RSS, 1.0), (RSS, 100.0), (RSS, 400.0), (RSS, 900.0)], 1000.0, RSS),
        ([(RSS, 100.0), (REQUESTS, 400.0), (RSS, 900.0)], 1000.0, None),
        ([(Rule.BY_HAND, 100.0), (Rule.BY_HAND, 400.0), (Rule.BY_HAND, 900.0)], 1000.0, None),
        ([(RSS, 100.0), (RSS, 400.0), (Rule.BY_HAND, 500.0), (RSS, 900.0)], 1000.0, RSS),
        ([(RSS, 100.0), (RSS, 400.0), (RSS, 900.0), (Rule.RELOAD, 950.0)], 1000.0, None),
        ([(RSS, 100.0), (RSS, 400.0), (RSS, 900.0), (Rule.SCALE, 950.0)], 1000.0, RSS),
    ],
)
def test_a_slot_whose_workers_one_rule_replaces_again_and_again(recycles, now, often):
    assert recycled_often(recycled_at(*recycles).record(1), now) == often


def test_the_kills_of_evil_reload_on_rss_are_counted_as_recycles():
    fleet = ready_fleet(1)
    for at in (100.0, 200.0, 300.0):
        fleet = told(fleet, m.Killed(1, Reason(Rule.EVIL_RELOAD_ON_RSS, ""), at, evil=True))
    assert recycled_often(fleet.record(1), 300.0) is Rule.EVIL_RELOAD_ON_RSS


@pytest.mark.parametrize("surge", [0, 1])
def test_a_plan_retires_no_worker_twice(surge):
    policy = Policy(surge=surge, max_worker_lifetime=30.0, **BASE)
    fleet = ready_fleet(2, policy=policy)
    fleet = told(fleet, Start(1, 1, 101, 60.0, 0.0), policy=policy)
    fleet = told(fleet, m.Observed((m.Reading(1, State.UNLOADED, 1),), 1.0), policy=policy)
    fleet = told(fleet, m.GenerationStarted(50.0, 2), policy=policy)
    retired = [action.seat for action in plan(policy, fleet, 60.0) if isinstance(action, a.Retire)]
    assert retired == [1]
