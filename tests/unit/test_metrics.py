"""The metrics follow from the snapshot, and what is built on their names uses no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.report.metrics import POOL_METRICS, PREFIX, families, families_of_pools
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import TALLY_WORDS, Layout
from django_workerguard.scoreboard.tallies import LOAD_BUCKETS, LOAD_SECONDS, TALLIES, Tallies, read_tallies
from tests.shots import MOLD, changed

PROMETHEUS = Path(__file__).resolve().parents[2] / "docs" / "prometheus"


@pytest.fixture
def board():
    board = Board.create(Layout(seats=1, slots=1), None)
    yield board
    board.close()


def by_name(shot):
    return {family.name: family for family in families(shot)}


def test_slots_are_the_labels_and_states_are_complete():
    found = by_name(changed(slot={"requests": 7, "errors_5xx": 2}))
    assert found["workerguard_requests"].samples == [(("1",), 7)]
    assert found["workerguard_responses_5xx"].samples == [(("1",), 2)]
    assert dict(found["workerguard_workers"].samples)["ready",] == 1
    assert sum(count for _, count in found["workerguard_workers"].samples) == 1
    assert "workerguard_listen_backlog_connections" not in by_name(changed(backlog=None))


def test_pools_are_told_of_under_names_of_their_own_those_of_one_name_together():
    pools = [changed(name=name, slot={"requests": 7, "errors_5xx": 2}) for name in ("a@here", "b@here")]
    found = list(families_of_pools(pools))
    names = [family.name for _, family in found]
    assert sorted(set(names), key=names.index) == [
        f"{PREFIX}_pool_{called}" for called, _ in POOL_METRICS.values()
    ]
    assert names == sorted(names, key=names.index), "a metric's samples come in one block"
    tasks = [(pool, family.samples) for pool, family in found if family.name == "workerguard_pool_tasks"]
    assert tasks == [("a@here", [(("1",), 7)]), ("b@here", [(("1",), 7)])]
    assert not set(names) & {family.name for family in families(changed())}


def test_what_is_not_known_is_no_number_that_lies():
    found = by_name(changed(slot={"next_try_in": None, "rss_bytes": 0}))
    assert found["workerguard_back_off_seconds"].samples == [(("1",), 0)]


def test_the_histogram_is_cumulative(board):
    tallies = Tallies(board)
    for seconds in (0.05, 0.3, 0.3, 500.0):
        tallies.count_load(seconds)
    read = read_tallies(board)
    assert read[LOAD_SECONDS] == pytest.approx(500.65)
    histogram = by_name(changed(tallies=read))["workerguard_load_duration_seconds"]
    counts = {bound: count for (bound,), count in histogram.samples}
    assert (counts["0.1"], counts["0.25"], counts["0.5"], counts["120.0"], counts["+Inf"]) == (1, 1, 3, 3, 4)
    assert list(counts) == list(LOAD_BUCKETS)


def test_what_a_tally_does_not_know_is_other(board):
    tallies = Tallies(board)
    tallies.count("recycles", "a rule of tomorrow")
    tallies.count("recycles", "outlier")
    assert {label: n for label, n in read_tallies(board)["recycles"].items() if n} == {
        "other": 1,
        "outlier": 1,
    }


def test_the_largest_tallies_fit_their_place(board):
    tallies = Tallies(board)
    for name, labels in TALLIES.items():
        for label in labels:
            tallies._counts[name][label] = 2**63
    tallies._counts[LOAD_SECONDS] = 1e15 + 0.123456
    tallies.count("exits", "asked")
    assert read_tallies(board)["exits"]["asked"] == 2**63 + 1


@given(st.binary(max_size=TALLY_WORDS * 8 - 16))
def test_whatever_a_wild_worker_wrote_the_tallies_are_numbers(data):
    board = Board.create(Layout(seats=1, slots=1), None)
    board.write_text(board.layout.tallies, TALLY_WORDS, data)
    read = read_tallies(board)
    board.close()
    assert all(count == 0 for name in TALLIES for count in read[name].values())


@pytest.mark.parametrize(
    "written",
    [
        {"exits": []},
        {"exits": {"asked": "many"}},
        {"exits": {"asked": -1}, "load_seconds": None},
        {"exits": {"asked": True}},
    ],
)
def test_tallies_of_the_wrong_kind_are_no_numbers(board, written):
    board.write_tallies(written)
    read = read_tallies(board)
    assert read["exits"]["asked"] in (0, 1)
    assert read[LOAD_SECONDS] == 0


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
def test_alerts_and_dashboard_name_no_metric_that_does_not_exist(name):
    text = (PROMETHEUS / name).read_text()
    known = {series for family in families(changed(mold=MOLD)) for series in family.series}
    known |= {series for _, family in families_of_pools([changed()]) for series in family.series}
    used = set(re.findall(r"\bworkerguard_\w+", text))
    assert len(used) >= 8
    assert used <= known
    if name.endswith(".json"):
        panels = json.loads(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_labels_that_alerts_choose_by_exist():
    text = (PROMETHEUS / "alerts.yml").read_text()
    for label in re.findall(r'cause="([^"]+)"', text):
        assert label in {*TALLIES["exits"], *TALLIES["load_failures"]}
    for label in re.findall(r'rule!?="([^"]+)"', text):
        assert label in TALLIES["recycles"]


def test_a_mold_has_its_own_metrics_and_a_server_without_one_has_none():
    assert not [name for name in by_name(changed()) if "_mold_" in name]
    hazards = ["thread: poller, which runs jobs.py:7", "thread: other", "socket: descriptor 7"]
    found = by_name(changed(load="mold", mold={**MOLD, "failures": 2, "hazards": hazards}, unfit=True))
    values = {name: family.samples for name, family in found.items() if "_mold_" in name}
    assert values == {
        "workerguard_mold_ready": [((), 1)],
        "workerguard_mold_unfit": [((), 1)],
        "workerguard_mold_hazards": [(("socket",), 1), (("thread",), 2)],
        "workerguard_mold_forks": [((), 3)],
        "workerguard_mold_resident_memory_bytes": [((), 60 << 20)],
        "workerguard_mold_load_failures_in_a_row": [((), 2)],
    }
