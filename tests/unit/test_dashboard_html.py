"""The dashboard's parts: tracebacks, sparklines, and which slot is shown where."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.dashboard import fragments
from django_workerguard.dashboard.snapshots import HtmlCache
from django_workerguard.dashboard.sparklines import POINTS, WIDTH, sparkline
from django_workerguard.dashboard.tiles import Place, Recent, large, per_second
from django_workerguard.dashboard.traceback import own_frame, traceback
from django_workerguard.report.findings import Finding
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import SAMPLES, Sample
from django_workerguard.scoreboard.samples import Series, read_recent, read_series
from tests.boards import TRACEBACK, Fleet
from tests.shots import ERROR, LIMITS, MOLD, SLOT, changed


def test_the_own_frames_are_those_of_the_project_and_not_of_its_environment():
    marked = re.findall(r"<mark>(.*?)</mark>", traceback(TRACEBACK, "/srv/shop"), re.DOTALL)
    assert [len(block.splitlines()) for block in marked] == [2, 2]
    assert "shop/urls.py" in marked[0]
    assert own_frame(TRACEBACK, "/srv/shop") == "shop/cards/views.py, line 3, in <module>"
    assert own_frame(TRACEBACK, "/srv/other") == ""
    assert own_frame("", "/srv/shop") == ""


@given(st.text(), st.text())
def test_a_traceback_is_text_whatever_is_in_it(text, project):
    html = traceback(text, project)
    assert set(re.findall(r"<(/?\w+)", html)) <= {"pre", "/pre", "mark", "/mark"}
    own_frame(text, project)


@given(st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1)), max_size=90), st.floats(0, 2**64))
def test_a_sparkline_stays_within_its_box(values, floor):
    html = sparkline(values, "Memory", floor=floor)
    if sum(value is not None for value in values[-POINTS:]) < 2:
        assert html == ""
        return
    for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", html):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= 24


def test_a_series_has_a_value_a_minute_and_none_where_the_slot_was_not():
    fleet = Fleet(2)
    series = read_series(fleet.board, 1)
    assert len(series.rss) == 60
    assert len(series.requests) == 59
    assert all(requests and 100 < requests < 700 for requests in series.requests)
    first = fleet.board.layout.sample(2, 0)
    for index in range(SAMPLES // 2):
        fleet.board.words[first + index * (fleet.board.layout.sample(2, 1) - first) + Sample.AT] = 5
    series = read_series(fleet.board, 2)
    assert series.requests[0] is None
    assert series.requests[-1]


@pytest.mark.parametrize("taken", [0, 2**64 - 1])
def test_a_series_of_a_board_without_samples_or_with_damage_is_empty(taken):
    fleet = Fleet(1)
    fleet.board.words[Header.SAMPLES] = taken
    assert read_series(fleet.board, 1) == Series((), (), ())


def slots(number, **states):
    return [dict(SLOT, slot=n, **states.get(f"s{n}", {})) for n in range(1, number + 1)]


FAILING = {"state": "back_off", "pid": None, "failures": 2, "next_try_in": 3.0, "last_error": ERROR}


def test_slots_that_fail_alike_are_one_finding():
    shot = changed(slots=slots(8, s2=FAILING, s3=dict(FAILING, failures=9), s4=FAILING, s7=FAILING))
    html = fragments.tiles(shot, "/slot/0/")
    (finding,) = re.findall(r'<li class="wg-warning">(.*?)</li>', html)
    assert "slots 2–4, 7: cannot load the application: MemoryError: no memory" in finding
    assert "What to do: Remove the cause" in finding
    assert "Slots 2–4, 7 need attention" in html


def test_more_findings_than_a_screen_has_room_for_are_a_click_away():
    failing = {f"s{n}": dict(FAILING, last_error=dict(ERROR, message=str(n))) for n in range(1, 12)}
    html = fragments.tiles(changed(slots=slots(12, **failing)), "/slot/0/")
    assert html.index("<details") < html.index("cannot load the application: MemoryError: 7")
    assert "5 more</summary>" in html


def test_a_worker_that_is_of_another_generation_says_so():
    shot = changed(slots=slots(2, s2={"generation": 2}), arbiter={"generation": 2})
    first, second = fragments.tiles(shot, "/slot/0/").split('<li class="wg-tile')[1:]
    assert "generation 1" in first
    assert "generation" not in second


def test_the_memory_of_forked_workers_is_private_and_that_of_the_mold_shared():
    forked = {f"s{n}": {"mold": 10, "rss_bytes": 14 << 20} for n in (1, 2)}
    limits = {**LIMITS, "memory_bytes": 512 << 20, "memory_used_bytes": 300 << 20}
    html = fragments.tiles(
        changed(slots=slots(2, **forked), mold=MOLD, load="mold", limits=limits), "/slot/0/"
    )
    assert (
        '<b>28 MB</b> <span class="wg-quiet">private; 60 MB in the mold, shared; 300 MB of 512 MB used</span>'
        in html
    )


def test_memory_that_grows_is_seen_on_the_tile():
    html = fragments.tiles(changed(), "/slot/0/", {1: Recent(growth=140 << 20)})
    assert "<dd>50 MB (+140 MB)</dd>" in html


def test_a_mold_that_cannot_load_shows_its_traceback():
    mold = {
        **MOLD,
        "pid": None,
        "state": "back_off",
        "failures": 2,
        "last_error": {**ERROR, "traceback": TRACEBACK},
    }
    html = fragments.tiles(changed(load="mold", mold=mold, project="/srv/shop"), "/slot/0/")
    assert '<details open id="wg-mold-error">' in html
    assert "shop/cards/views.py, line 3" in html


def two_back_off(fleet):
    fleet.back_off(2)
    fleet.back_off(5)


def no_room(fleet):
    words = fleet.board.words
    words[Header.MEMORY_LIMIT], words[Header.MEMORY_USED] = 512 << 20, 500 << 20


def everything_down(fleet):
    for slot in range(1, 9):
        fleet.back_off(slot)
    fleet.board.words[Header.STAND_IN] = 1


@pytest.mark.parametrize(
    ("happen", "causes"),
    [
        (two_back_off, ["6 of 8", "slots 2, 5: cannot load", "shop/cards/views.py, line 3", "next try in 1"]),
        (Fleet.frozen, ["frozen: generation 4 cannot be loaded (ModuleNotFoundError: No module named", "views.py, line 3"]),
        (lambda fleet: fleet.slow(6), ["slot 6 is slow and its peers are not: its median", "840 ms, 2.1 s"]),
        (lambda fleet: fleet.stuck(3), ["every thread is busy with requests that do not end, such as GET /cards/pay/", "<strong>3m04s</strong>"]),
        (lambda fleet: fleet.grows(2, 140), ["203 MB (+138 MB)"]),
        (no_room, ["leaves 12 MB: there may be no memory for a successor", "500 MB of 512 MB used"]),
        (everything_down, ["0 of 8", "no worker is loaded: the stand-in answers 503", "slots 1–8: cannot load"]),
    ],
)  # fmt: skip
def test_the_page_alone_says_the_cause(happen, causes):
    fleet = Fleet(8)
    happen(fleet)
    text = unescape(HtmlCache(fleet.board).tiles("/slot/0/"))
    for cause in causes:
        assert cause in text


def test_a_slot_that_waits_for_memory_says_how_much_is_missing():
    room = {"needed_bytes": 90 << 20, "missing_bytes": 30 << 20}
    slot = {**SLOT, "state": "no_room", "no_room": room}
    shown = large(slot, Recent(), Place(0.0, "/guard/slot/0/"), [Finding("warning", "no-room", 1, "")])
    assert "wg-no-room" in shown
    assert "30 MB of 90 MB are missing" in shown


def test_the_views_that_make_a_worker_grow():
    leak = {"view": "shop.<views>.export", "retained_bytes": 60 << 20, "largest_bytes": 3 << 20}
    jump = {"view": "shop.report", "retained_bytes": 100, "largest_bytes": 90 << 20}
    shown = re.sub(r"<[^>]+>", " ", fragments.memory_of_views({"views": [jump, leak]}))
    assert unescape(" ".join(shown.split())) == (
        "Most kept +60 MB shop.<views>.export Most added by one request +90 MB shop.report +3 MB shop.<views>.export"
    )
    assert fragments.memory_of_views({"views": [{**leak, "retained_bytes": 9, "largest_bytes": 9}]}) == ""


def test_a_rate_is_of_the_time_that_is_known():
    fleet = Fleet(2)
    for taken, known in ((360, 60), (3, 20), (1, 0), (0, 0)):
        fleet.board.words[Header.SAMPLES] = taken
        requests, _, seconds = read_recent(fleet.board, 1, samples=6)
        assert (seconds, requests > 0) == (known, known > 0)
    assert per_second(71, 20) == "3.5/s"
    assert per_second(0, 0) == "–"


def test_the_memory_of_a_slot_is_shown_beside_its_limit():
    shot = changed(limits={**LIMITS, "rss_bytes": 160 << 20})
    assert "50 MB of 160 MB" in fragments.tiles(shot, "/slot/0/", {})


def test_a_ready_slot_with_a_critical_finding_is_red():
    shown = large(SLOT, Recent(), Place(0.0, ""), [Finding("critical", "worker-stuck", 1, "")])
    assert "wg-grave" in shown
    assert "wg-grave" not in large(SLOT, Recent(), Place(0.0, ""), [Finding("warning", "outlier", 1, "")])
