"""The last hour: lives, waits and marks out of the journal, and the drawing of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_workerguard.dashboard import fragments, svg
from django_workerguard.dashboard.svg import Axis
from django_workerguard.report.rates import rates
from django_workerguard.report.timeline import WINDOW, Timeline
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import SAMPLES, Layout, Sample
from django_workerguard.scoreboard.samples import read_totals
from tests.shots import ERROR, MOLD, changed


def journal(*events, first=1):
    return [{"number": number, **event} for number, event in enumerate(events, first)]


def event(name, at, slot=1, pid=10, **fields):
    return {"event": name, "at": at, "slot": slot, "pid": pid, "generation": 1, **fields}


def told(*events):
    line = Timeline()
    line.feed(journal(*events))
    return line


def test_a_life_is_loading_then_ready_then_retiring():
    line = told(
        event("spawned", 1.0),
        event("ready", 2.0),
        event("retiring", 5.0, reason="max-requests: 9 of 9"),
        event("exited", 6.0, state="retiring"),
    )
    (life,) = line.lives
    assert list(life.spans(99.0)) == [("loading", 1.0, 2.0), ("ready", 2.0, 5.0), ("retiring", 5.0, 6.0)]
    assert [mark.kind for mark in line.marks] == ["recycled"]


def test_what_lives_on_reaches_to_now():
    line = told(event("spawned", 1.0), event("ready", 2.0))
    assert list(line.lives[0].spans(9.0))[-1] == ("ready", 2.0, 9.0)


def test_a_failed_load_ends_its_life_and_a_back_off_lasts_until_the_next_try():
    line = told(
        event("spawned", 1.0),
        event("load-failed", 2.0, type="MemoryError", message="none", step="app"),
        event("back-off", 2.0, seconds=30.0, failures=1),
        event("spawned", 12.0, pid=11),
    )
    assert [life.ended for life in line.lives] == [2.0, None]
    assert (line.waits[0].begun, line.waits[0].until) == (2.0, 12.0)
    assert line.marks[0].text == "load failed in step app: MemoryError: none"


def test_a_life_whose_beginning_is_forgotten_is_still_shown():
    (life,) = told(
        event("exited", 100.0, state="ready", lived=40.0, end="killed by SIGKILL", by="unknown")
    ).lives
    assert list(life.spans(200.0)) == [("loading", 60.0, 60.0), ("ready", 60.0, 100.0)]


def test_events_that_were_missed_leave_nobody_alive_for_ever():
    line = told(event("spawned", 1.0), event("ready", 2.0))
    line.feed(journal(event("spawned", 50.0, pid=77), first=20_000))
    assert [life.ended for life in line.lives] == [50.0, None]


def test_an_hour_later_it_is_forgotten():
    line = told(
        event("spawned", 0.0), event("exited", 10.0, state="ready"), event("back-off", 10.0, seconds=5)
    )
    line.forget(10.0 + WINDOW + 6)
    assert not line.lives
    assert not line.waits
    assert not line.marks


NAMES = st.sampled_from(
    [
        "spawned",
        "ready",
        "retiring",
        "exited",
        "load-failed",
        "back-off",
        "aborted",
        "killed",
        "reload",
        "frozen",
        "scaled",
        "duty",
        "x",
    ]
)
ANYTHING = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)
)
EVENTS = st.lists(
    st.builds(
        lambda name, at, slot, pid, fields: {**fields, "event": name, "at": at, "slot": slot, "pid": pid},
        NAMES,
        st.one_of(st.floats(0, 5000), st.none(), st.text(max_size=5)),
        st.one_of(st.integers(0, 3), ANYTHING),
        st.one_of(st.integers(1, 5), ANYTHING),
        st.dictionaries(
            st.sampled_from(["generation", "seconds", "lived", "reason", "message", "by", "end"]), ANYTHING
        ),
    ),
    max_size=40,
)


@given(EVENTS)
@example([{"event": "spawned", "at": 0.0, "slot": 1, "pid": 1, "lived": 62135596801}])  # before the year 1
def test_whatever_the_journal_holds_can_be_drawn(events):
    line = told(*events)
    line.forget(5000.0)
    html = svg.history(line, svg.Bars(0.0), [1, 2, 3], [], Axis.since(0.0, 5000.0))
    for drawn in re.findall(r' (?:d|x|y|x1|x2|width|viewBox|points)="([^"]*)"', html):
        assert "n" not in drawn, "nan, inf"
    assert well_formed(html)
    for width in re.findall(r"M\S+ \S+?h([\d.-]+)v", html):
        assert 0 < float(width) <= 2 * WINDOW + 1000


@given(st.text())
def test_what_a_worker_wrote_is_text_and_nothing_else(text):
    error = {**ERROR, "type": text, "message": text}
    shot = changed(
        slot={"state": "back_off", "failures": 2, "next_try_in": 3.0, "last_error": error, "release": text},
        release=text,
    )
    line = told(event("load-failed", 1.0, type=text, message=text, step=text))
    for html in (
        fragments.tiles(shot, "/0/slot/0/"),
        svg.history(line, svg.Bars(0.0), [1], [], Axis.since(0.0, 10.0)),
        svg.waterfall([{"name": text, "seconds": 1.0, "retained_bytes": 5}]),
        fragments.event_list([event("load-failed", 1.0, message=text)]),
    ):
        assert well_formed(html)
        assert set(TAG.findall(html)) <= KNOWN


TAG = re.compile(r"<(\w+)")
KNOWN = {
    "caption",
    "section",
    "h2",
    "b",
    "bdi",
    "code",
    "time",
    "div",
    "p",
    "ul",
    "ol",
    "li",
    "strong",
    "h3",
    "a",
    "span",
    "dl",
    "dt",
    "dd",
    "svg",
    "line",
    "text",
    "rect",
    "title",
    "figure",
    "figcaption",
    "polyline",
    "path",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}


class Nesting(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []
        self.well = True

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.well = self.well and not any(name.startswith("on") or name == "style" for name, _ in attrs)

    def handle_endtag(self, tag):
        self.well = self.well and bool(self.open) and self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass


def well_formed(html):
    nesting = Nesting()
    nesting.feed(html)
    return nesting.well and not nesting.open


def test_links_lead_to_the_slots_wherever_the_dashboard_is_mounted():
    assert 'href="/0/guard/slot/1/"' in fragments.tiles(changed(), "/0/guard/slot/0/")


def test_a_crash_loop_of_an_hour_is_drawn_in_a_bounded_size():
    events = []
    for number in range(3300):
        at = number * 1.0
        events += [
            event("spawned", at, pid=number + 1),
            event("load-failed", at + 0.5, pid=number + 1, type="E", message="m"),
            event("back-off", at + 0.5, seconds=0.5),
        ]
    html = svg.history(told(*events), svg.Bars(0.0), [1], [], Axis.since(0.0, 3600.0))
    assert len(html) < 400_000


def test_of_ten_thousand_events_what_is_grave_is_drawn_and_the_rest_is_counted():
    """64 slots that are recycled all the time, and one load that failed long ago."""
    events = [event("load-failed", 10.0, slot=7, pid=1, type="E", message="m")]
    for number in range(9999):
        at, slot = 20.0 + number * 0.35, number % 64 + 1
        events.append(event("retiring", at, slot=slot, pid=number + 2, reason="max-requests: 9 of 9"))
    html = svg.history(told(*events), svg.Bars(0.0), range(1, 65), [], Axis.since(0.0, 3600.0))
    assert html.count('class="wg-mark wg-mark-failed"') == 1
    assert html.count('class="wg-mark ') == svg.MOST_MARKS
    assert "more marks are not drawn" in html
    assert len(html) < 1_500_000


@pytest.mark.parametrize("number", [8, 64])
def test_what_is_not_well_comes_first(number):
    slots = [{**changed()["slots"][0], "slot": n, "failures": int(n == 7)} for n in range(1, number + 1)]
    html = fragments.tiles(changed(slots=slots), "/0/slot/0/")
    assert html.index("wg-slot-7") < html.index("wg-slot-1")
    assert f"The other {number - 1}: ready" in html


def test_rates_are_differences_and_a_slot_that_goes_is_no_negative_rate():
    found = rates([10, 20, 30, 40], [0, 100, 50, 60], [0, 10, 5, 5])
    assert [(rate.requests, rate.errors) for rate in found] == [(10.0, 1.0), (0.0, 0.0), (1.0, 0.0)]
    assert rates([], [], []) == rates([1], [1], [1]) == []
    assert rates([5, 5], [1, 2], [0, 0]) == []


@pytest.mark.parametrize("taken", [0, 3, SAMPLES, SAMPLES + 5])
def test_samples_come_in_order_and_a_slot_that_was_not_there_counts_nothing(taken):
    board = Board.create(Layout(seats=1, slots=3), None)
    for index in range(taken):
        for slot in (1, 2) if index < 2 else (1,):
            at = board.layout.sample(slot, index % SAMPLES)
            board.words[at + Sample.AT] = 1000 + 10 * index
            board.words[at + Sample.REQUESTS] = index + slot
    board.words[Header.SAMPLES] = taken
    totals = read_totals(board)
    board.close()
    first = max(0, taken - SAMPLES)
    assert list(totals.at) == [1000 + 10 * index for index in range(first, taken)]
    assert list(totals.requests) == [
        index + 1 + (index + 2 if index < 2 else 0) for index in range(first, taken)
    ]


def test_what_happens_to_the_mold_is_said_of_the_mold_and_drawn_with_the_server():
    line = told(
        event("load-failed", 1.0, slot=0, type="MemoryError", message="none", step="app"),
        event("back-off", 1.0, slot=0, seconds=30.0, failures=1),
        event("mold-spawned", 12.0, slot=0, pid=11),
        event("mold-unfit", 13.0, slot=0, pid=11, hazards=["thread: poller"]),
        event(
            "retiring", 14.0, slot=0, pid=11, rule="newer-mold", reason="newer-mold: generation 2 has begun"
        ),
        {"event": "thawed", "at": 15.0, "generation": 2},
    )
    assert [(mark.slot, mark.text) for mark in line.marks] == [
        (0, "the mold: load failed in step app: MemoryError: none"),
        (0, "the mold: no worker can be forked from it: thread: poller"),
        (0, "thawed: generation 2"),
    ]
    assert [(wait.begun, wait.until) for wait in line.waits] == [(1.0, 12.0)]
    assert not line.lives


def test_the_mold_has_a_tile_with_its_hazards():
    assert "Mold" not in fragments.tiles(changed(), "/slot/0/")
    html = fragments.tiles(changed(load="mold", mold=MOLD), "/slot/0/")
    assert "<dt>forks</dt><dd>3</dd>" in html
    assert "for 1m40s, pid 10" in html
    gone = {"pid": None, "rss_bytes": 0, "load_seconds": None, "next_try_in": 3.0}
    unfit = {**MOLD, **gone, "state": "unfit", "hazards": ["thread: <poller>"]}
    html = fragments.tiles(changed(load="auto", unfit=True, mold=unfit), "/slot/0/")
    assert 'class="wg-tile wg-middle wg-unfit"' in html
    assert html.index("wg-unfit") < html.index("Slot 1<"), "what is not well comes first"
    assert "no process, next load in 3 s" in html
    assert '<p class="wg-why">thread: &lt;poller&gt;</p>' in html
