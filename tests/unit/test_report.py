"""What a person and a probe are told."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from django_workerguard.cli.watch import screen
from django_workerguard.config.text import plain
from django_workerguard.report.findings import assess, with_findings
from django_workerguard.report.groups import grouped
from django_workerguard.report.health import answer
from django_workerguard.report.remedies import as_html
from django_workerguard.report.status_text import bars, table
from django_workerguard.report.tables import (
    aligned,
    event_line,
    explanation,
    explanation_of_mold,
    explanation_of_server,
    headlines,
    span,
)
from django_workerguard.report.verdict import KINDS, LONGEST_SILENCE, judge
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, Phase, Vitals
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.snapshot import snapshot
from tests.shots import ERROR, LIMITS, MOLD, SLOT, WELL, changed

SPARE = {"part": "DATABASES: legacy", "type": "ImportError", "message": "no driver"}


def vitals(*, ready=2, quorum=1, phase=Phase.SERVING, reached=1, beat=100.0, valid_for=0) -> Vitals:
    words = [0] * Header.WORDS
    words[Header.BEAT] = int(beat * 1e9)
    words[Header.PHASE], words[Header.READY], words[Header.QUORUM] = phase, ready, quorum
    words[Header.TARGET], words[Header.REACHED] = 2, reached
    words[Header.VALID_FOR] = int(valid_for * 1e9)
    return Vitals(words)


@pytest.mark.parametrize(
    ("kind", "of", "loaded", "now", "ok"),
    [
        ("live", vitals(), False, 101.0, True),
        ("live", vitals(), True, 100.0 + LONGEST_SILENCE + 1, False),
        ("live", vitals(ready=0), False, 101.0, True),
        ("ready", vitals(), True, 101.0, True),
        ("ready", vitals(ready=0), None, 101.0, False),
        ("ready", vitals(ready=0), True, 101.0, True),  # it is one, though the arbiter has not counted it yet
        ("ready", vitals(ready=1, quorum=2), True, 101.0, False),
        ("ready", vitals(ready=0, quorum=0), None, 101.0, False),  # nothing has been published yet
        ("ready", vitals(), None, 101.0, True),
        ("ready", vitals(), False, 101.0, False),
        ("ready", vitals(phase=Phase.DRAINING), True, 101.0, False),
        ("ready", vitals(phase=Phase.STOPPING), True, 101.0, False),
        ("startup", vitals(reached=0, ready=0, quorum=2), True, 101.0, False),
        ("startup", vitals(reached=0, ready=0), True, 101.0, True),
        ("startup", vitals(reached=0, ready=0, quorum=0), None, 101.0, False),
        ("startup", vitals(ready=0), False, 101.0, True),
        ("ready", vitals(), None, 1000.0, True),
        ("ready", vitals(valid_for=20), None, 119.0, True),
        ("ready", vitals(valid_for=20), None, 121.0, False),  # the counts are too old to be believed
        ("ready", vitals(valid_for=20), True, 121.0, True),
        ("startup", vitals(valid_for=20), None, 121.0, True),
        ("live", None, False, 0.0, True),
        ("ready", None, False, 0.0, False),
        ("startup", None, True, 0.0, True),
    ],
)
def test_verdicts(kind, of, loaded, now, ok):
    assert judge(kind, of, loaded=loaded, now=now)[0] is ok


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_json", [True, False])
def test_without_the_right_an_answer_says_yes_or_no_and_nothing_else(kind, as_json):
    for of in (vitals(), vitals(ready=0, reached=0)):
        told = answer(kind, of, loaded=None, now=101.0, as_json=as_json, detailed=False)
        body = told.body.decode().strip()
        assert (json.loads(body)["status"] if as_json else body) in ("ok", "unavailable")
        assert ("Retry-After" in dict(told.headers)) is (told.status == 503)


REFUSED = {
    "reason": "'shop.settings' cannot be imported: SyntaxError",
    "at": 990.0,
    "needs_restart": False,
    "next_try_in": 3.4,
}


def test_a_healthy_server_has_no_findings():
    assert assess(WELL) == []


@pytest.mark.parametrize(
    ("shot", "code"),
    [
        (changed(arbiter={"beat_age": 60.0}), "arbiter-silent"),
        (changed(stand_in=True, ready=0), "stand-in"),
        (changed(ready=0), "below-quorum"),
        (changed(arbiter={"phase": "draining"}), "draining"),
        (changed(arbiter={"errors": 2}), "arbiter-errors"),
        (changed(release="mixed"), "mixed-releases"),
        (changed(monitor_failures=2), "monitor-failing"),
        (changed(arbiter={"refused_reload": REFUSED}), "reload-refused"),
        (changed(arbiter={"frozen": True}, slot={"failures": 1, "last_error": ERROR}), "frozen"),
        (
            changed(arbiter={"frozen": True}, slot={"pid": None, "state": "back_off", "failures": 1}),
            "degraded",
        ),
        (changed(limits={**LIMITS, "max_worker_lifetime": 0.2}), "lifetime-below-load"),
        (
            changed(limits={**LIMITS, "memory_bytes": 90 << 20, "memory_used_bytes": 60 << 20}),
            "no-room-for-surge",
        ),
        (
            changed(slot={"notes": ["rss_baseline"]}, limits={**LIMITS, "rss_bytes": 1 << 20}),
            "rss-limit-below-baseline",
        ),
        (changed(slot={"notes": ["evil_suspended"]}), "evil-suspended"),
        (changed(slot={"notes": ["not_ended"]}), "not-ended"),
        (changed(slot={"notes": ["outlier"]}), "outlier"),
        (changed(slot={"recycled_often": {"rule": "max-requests", "view": None}}), "recycled-often"),
        (changed(slot={"notes": ["outlier_latency"]}), "outlier-latency"),
        (changed(slot={"state": "unloaded", "last_error": ERROR}), "unloaded"),
        (
            changed(slot={"state": "back_off", "failures": 2, "next_try_in": 3.0, "last_error": ERROR}),
            "load-failing",
        ),
        (changed(slot={"suspect": True}), "suspect"),
        (changed(slot={"outdated": ["gunicorn"]}), "package-changed"),
        (changed(slot={"loading_for": 15.1, "step": "app"}), "slow-load"),
        (
            changed(slot={"load_steps": [{"name": "app", "left": ["thread:poller"], "skipped": []}]}),
            "left-behind",
        ),
        (
            changed(slot={"load_steps": [{"name": "lazy", "left": [], "skipped": [SPARE]}]}),
            "part-not-loaded",
        ),
    ],
)
def test_findings(shot, code):
    assert code in [finding.code for finding in assess(shot)]
    assert with_findings(shot)["findings"][0]["text"]


@pytest.mark.parametrize("at", [-62135596801, 1e300, float("nan"), float("inf"), "yesterday", None, []])
def test_a_time_that_no_calendar_has(at):
    assert event_line({"event": "ready", "at": at, "slot": 1}).startswith("1970-01-01T00:00:00.000Z ready")


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (["thread:poller"], "slot 1: step app left 1 thread (thread:poller) open"),
        (["socket:10.0.0.5:443"], "slot 1: step app left 1 socket (socket:10.0.0.5:443) open"),
        (
            ["thread:a", "thread:b", "listener:0.0.0.0:80", "socket:x"],
            "slot 1: step app left 2 threads (thread:a, thread:b) and 2 sockets (listener:0.0.0.0:80, socket:x) open",
        ),
    ],
)
def test_what_a_step_left_is_counted_and_named(left, says):
    (finding,) = assess(changed(slot={"load_steps": [{"name": "app", "left": left, "skipped": []}]}))
    assert finding.text == says


def test_a_part_that_was_left_out_says_why():
    (finding,) = assess(changed(slot={"load_steps": [{"name": "lazy", "left": [], "skipped": [SPARE]}]}))
    assert (finding.severity, finding.text) == (
        "notice",
        "slot 1: DATABASES: legacy cannot be loaded in step lazy and is left out: ImportError: no driver",
    )


def test_a_load_is_slow_beside_the_others():
    assert not assess(changed(slot={"loading_for": 59.0, "load_seconds": 20.0, "step": "app"}))
    (finding,) = assess(changed(slot={"loading_for": 61.0, "load_seconds": 20.0, "step": "app"}))
    assert finding.text == (
        "slot 1: the load has taken 61 s so far and is in step app (the other loads took at most 20.0 s)"
    )


def test_a_finding_says_what_to_do_with_the_commands_of_its_server():
    unloaded = {"state": "unloaded", "last_error": ERROR}
    server, pool, uwsgi = (
        assess(changed(slot=unloaded, **more))[0].remedy
        for more in ({}, {"kind": "celery"}, {"worker_class": "uwsgi"})
    )
    assert "`workerguard recycle 1`" in server
    assert "`workerguard recycle 1 --celery --name shop`" in pool
    assert "recycle" not in uwsgi, "it has no such command"
    below, *_ = assess(changed(ready=0, kind="celery"))
    assert "`workerguard explain SLOT --celery --name shop`" in below.remedy
    shot = changed(slot=unloaded)
    assert f"What to do: {server}" in explanation(shot, shot["slots"][0], [])
    assert assess(changed(arbiter={"phase": "draining"}))[0].remedy == ""


def test_a_remedy_fits_the_state_of_the_server():
    (starting,) = assess(changed(ready=0, quorum_reached=False))
    assert starting.remedy == "Wait: the first loads have not ended yet."
    failing = {"state": "back_off", "failures": 40, "last_error": ERROR}
    below, *_ = assess(changed(ready=0, quorum_reached=False, slot=failing))
    assert "`workerguard explain SLOT`" in below.remedy, "more is needed than to wait"
    below, *_ = assess(changed(ready=0))
    assert "`workerguard events`" in below.remedy
    outlier = {"notes": ["outlier"]}
    assert "recycle" in assess(changed(slot=outlier))[0].remedy
    frozen = assess(changed(slot=outlier, arbiter={"frozen": True}))
    assert not [finding for finding in frozen if "recycle" in finding.remedy], "no successor can load"
    silent, unloaded = assess(changed(slot=failing, arbiter={"beat_age": 60.0}))
    assert f"/proc/{WELL['arbiter']['pid']}/status" in silent.remedy
    assert unloaded.remedy == "", "it makes no next try"
    leaving = assess(changed(ready=0, slot=failing, arbiter={"phase": "stopping"}))
    assert {finding.remedy for finding in leaving} == {""}


def test_a_restart_is_advised_only_when_the_code_on_the_disk_loads():
    outdated = {"outdated": ["gunicorn"]}
    (finding,) = assess(changed(slot=outdated))
    assert finding.remedy == "Restart the server."
    assert finding.text.endswith("start. Restart the server to run the new version")
    frozen = assess(changed(slot=outdated, arbiter={"frozen": True, "beat_age": 60.0}))
    assert {finding.code: finding.remedy for finding in frozen}["arbiter-silent"].endswith(
        "memory of the workers."
    )
    frozen = {one.code: one for one in assess(changed(slot=outdated, arbiter={"frozen": True}))}
    assert frozen["package-changed"].remedy == "Make the reload succeed, then restart the server."
    assert "once the reload has succeeded" in frozen["package-changed"].text


def test_a_refused_reload_that_is_no_longer_tried_says_how_to_go_on():
    (finding,) = assess(changed(arbiter={"refused_reload": {**REFUSED, "next_try_in": None}}))
    assert "then run `workerguard reload --wait`." in finding.remedy


@pytest.mark.parametrize("needs_restart", [True, False])
def test_a_refused_reload_says_whether_it_is_tried_again(needs_restart):
    wait = None if needs_restart else 3.4
    refused = {**REFUSED, "needs_restart": needs_restart, "next_try_in": wait}
    found = assess(changed(arbiter={"refused_reload": refused}, slot={"outdated": ["gunicorn"]}))
    told, outdated = (
        {one.code: one for one in found}[code] for code in ("reload-refused", "package-changed")
    )
    assert ("nothing has changed, next try in 3.4 s: 'shop.settings'" in told.text) is not needs_restart
    assert ("Do not restart" in told.remedy) is not needs_restart
    assert ("Make the reload succeed" in outdated.remedy) is not needs_restart


def test_a_remedy_that_changes_an_option_says_how_it_comes_into_effect():
    applied = [
        assess(changed(debug=True, settings="shop.settings", **more))[0].remedy
        for more in ({}, {"kind": "celery"}, {"worker_class": "uwsgi"})
    ]
    assert [remedy.partition(", then ")[2] for remedy in applied] == [
        "run `workerguard reload --wait`.",
        "restart Celery's worker.",
        "reload uWSGI.",
    ]


def test_the_slot_of_a_remedy_is_named_if_it_is_the_only_one():
    slots = [dict(SLOT, slot=number, suspect=number > 1) for number in (1, 2, 3)]
    one, other = assess(changed(slots=slots))
    assert "`workerguard recycle SLOT`" in one.remedy
    assert one.remedy == other.remedy
    (one,) = assess(changed(slots=slots[:2]))
    assert "`workerguard recycle 2`" in one.remedy


def test_the_explanation_of_a_server_has_what_to_do():
    failing = {"state": "back_off", "failures": 2, "last_error": ERROR, "pid": None}
    shot = changed(slots=[dict(SLOT, slot=number, **failing) for number in (1, 2)])
    _, *findings = explanation_of_server(shot).splitlines()
    assert findings == [
        "  warning: slots 1, 2: cannot load the application: MemoryError: no memory",
        "    What to do: Remove the cause: the server makes the next try by itself.",
    ]


def test_the_commands_of_a_remedy_are_code_on_a_page():
    assert as_html("Type `workerguard <x>`") == "What to do: Type <code>workerguard &lt;x&gt;</code>"


def test_findings_that_differ_only_in_their_slot_are_one():
    failing = {"state": "back_off", "failures": 2, "last_error": ERROR, "pid": None}
    slots = [dict(SLOT, slot=n, **failing, next_try_in=float(n)) for n in (1, 2, 3, 5)]
    other = dict(SLOT, slot=9, **{**failing, "last_error": {**ERROR, "message": "none; left"}})
    suspect = dict(SLOT, slot=4, suspect=True)
    groups = grouped(assess(changed(slots=[*slots, suspect, other], debug=True, settings="shop.settings")))
    assert [(group.code, group.slots) for group in groups] == [
        ("debug", ()),
        ("load-failing", (1, 2, 3, 5)),
        ("suspect", (4,)),
        ("load-failing", (9,)),
    ]
    assert groups[1].text == "slots 1–3, 5: cannot load the application: MemoryError: no memory"
    assert groups[3].text == "slot 9 cannot load the application: MemoryError: none; left; 2 tries failed"


def test_wide_characters_and_accents_keep_the_columns_below_each_other():
    lines = aligned([("PATH", "VIEW"), ("/商品", "shop"), ("/cafe\u0301", "bar"), ("/plain-text", "-")])
    assert lines == ["PATH         VIEW", "/商品        shop", "/cafe\u0301        bar", "/plain-text  -"]


def test_the_table_shows_every_slot_and_the_findings():
    shot = changed(
        slot={"state": "back_off", "failures": 2, "next_try_in": 3.0, "last_error": ERROR, "pid": None}
    )
    text = table(shot)
    assert "back-off" in text
    assert (
        "warning: slot 1 cannot load the application: MemoryError: no memory; 2 tries failed, next try in 3.0 s"
        in text
    )


def test_the_findings_come_first_and_everything_fits_the_terminal():
    failing = {"state": "back_off", "failures": 2, "next_try_in": 3.0, "last_error": ERROR, "pid": None}
    slots = [dict(SLOT, slot=n, requests=1_234_567, **(failing if n in (2, 5) else {})) for n in range(1, 9)]
    for slot in slots:
        slot["release"] = "2026.11.23-with-a-long-name"
    shot = changed(slots=slots, target=8, ready=6, bind=["http://127.0.0.1:8000", "unix:/run/shop/http.sock"])
    lines = table(shot, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("shop on here: 6 of 8 ready")
    warning = next(
        index for index, line in enumerate(lines) if line.startswith("warning: slots 2, 5: cannot load")
    )
    heads = next(index for index, line in enumerate(lines) if line.startswith("SLOT"))
    assert warning < heads
    assert lines[heads].split() == [
        "SLOT",
        "STATE",
        "PID",
        "GEN",
        "FOR",
        "REQUESTS",
        "5XX",
        "IN",
        "FLIGHT",
        "MEMORY",
        "NEXT",
        "TRY",
    ]
    assert "\033" not in table(shot)
    assert "RELEASE" in table(shot), "a file has room for everything"
    coloured = table(shot, width=80, colour=True)
    assert "\033[33mwarning: slots 2, 5" in coloured
    assert re.sub("\033\\[[0-9;]*m", "", coloured) == table(shot, width=80)


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], ""), ([0, 0], "▁▁"), ([1, None, 8, 4], "▂ █▅"), ([2**64 - 1, 0], "█▁")],
)
def test_bars(values, shown):
    assert bars(values) == shown


@pytest.mark.parametrize(("width", "height"), [(200, 50), (80, 24), (40, 10)])
@pytest.mark.parametrize("servers", [1, 2])
def test_the_live_screen_keeps_what_is_wrong_on_a_small_terminal(width, height, servers):
    shot = changed(target=64)
    ready = dict(shot["slots"][0], release="2026.11.23-with-a-long-name", requests=123456789)
    failing = dict(ready, state="back_off", failures=2, next_try_in=3.0, last_error=ERROR, pid=None)
    shot["slots"] = [dict(ready, slot=number) for number in range(1, 64)] + [dict(failing, slot=64)]
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    lines = dict.fromkeys(range(1, 65), "▁▂▃▄▅▆▇█▁▂▃▄▅▆▇")
    console.print(screen([(shot, lines)] * servers, console))
    shown = console.export_text().splitlines()
    assert max(map(len, shown)) <= width
    assert sum("back-off" in line and "3.0 s" in line for line in shown) == servers
    assert ("RELEASE" in "".join(shown)) is (width == 200)
    assert ("▁▂▃▄▅▆▇█▁▂▃▄▅▆▇" in "".join(shown)) is (width >= 80)
    if height > 10:
        assert len(shown) <= height
        assert sum("slot 64 cannot load" in line for line in shown) == servers


def test_the_explanation_of_a_slot():
    steps = [
        {
            "name": "app",
            "seconds": 0.2,
            "peak_bytes": 0,
            "retained_bytes": 1 << 20,
            "threads_left": 0,
            "sockets_left": 0,
            "left": [],
            "skipped": [],
        }
    ]
    shot = changed(slot={"last_error": ERROR, "load_steps": steps})
    events = [
        {"number": 1, "at": 1.0, "event": "ready", "slot": 1},
        {"number": 2, "at": 2.0, "event": "ready", "slot": 2},
    ]
    text = explanation(shot, shot["slots"][0], events)
    assert "Traceback…" in text
    assert "200 ms" in text
    assert "slot=2" not in text, "the events of other slots are not shown"


@given(st.text())
def test_what_a_worker_wrote_cannot_command_a_terminal(text):
    for shown in (plain(text), event_line({"at": 0, "event": "x", "message": text})):
        assert not any(ord(char) < 32 and char not in "\n\t" for char in shown)
        assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(5, "5s"), (65, "1m05s"), (3700, "1h01m"), (90000, "1d01h"), (-3, "0s")]
)
def test_spans(seconds, shown):
    assert span(seconds) == shown


def test_every_snapshot_can_be_assessed_and_shown():
    board = Board.create(Layout(seats=2, slots=2), None)
    board.words[Header.TARGET] = 2
    shot = snapshot(board)
    board.close()
    assert table(with_findings(shot))
    assert json.loads(json.dumps(shot)) == shot


def test_a_mold_is_a_line_of_status_and_says_what_is_wrong_with_it():
    shot = changed(load="mold", mold=MOLD)
    assert "mold: ready for 1m40s, pid 10, generation 1, 3 forks, 60 MB" in table(shot)
    assert not assess(shot)
    unfit = {**MOLD, "state": "unfit", "hazards": ["thread: poller, which runs jobs.py:7"]}
    (finding,) = assess(changed(load="auto", unfit=True, mold=unfit))
    assert (finding.code, finding.slot) == ("mold-unfit", None)
    assert "thread: poller, which runs jobs.py:7" in finding.text
    assert "each worker loads it by itself" in finding.text
    failing = {
        **MOLD,
        "pid": None,
        "state": "back_off",
        "failures": 2,
        "next_try_in": 3.0,
        "last_error": ERROR,
    }
    (finding,) = assess(changed(load="mold", mold=failing))
    assert finding.code == "mold-failing"
    assert "MemoryError: no memory; 2 tries failed, next try in 3.0 s" in finding.text
    refused = {**failing, "failures": 0, "not_spawned": 2, "last_error": {"message": "no process"}}
    (finding,) = assess(changed(load="mold", mold=refused))
    assert "the mold cannot be started: no process; 2 tries failed, next try in 3.0 s" in finding.text
    frozen, _ = assess(changed(load="mold", mold=failing, arbiter={"frozen": True}))
    assert "generation 1 cannot be loaded (MemoryError: no memory, next try in 3.0 s)" in frozen.text


def test_the_mold_is_explained_as_a_slot_is():
    steps = [{"name": "app", "seconds": 0.5, "peak_bytes": 0, "retained_bytes": 0}]
    hazards = ["thread: poller, which runs jobs.py:7"]
    mold = {**MOLD, "state": "unfit", "hazards": hazards, "load_steps": steps, "forks": 1}
    shot = changed(load="auto", unfit=True, mold=mold)
    told = explanation_of_mold(shot, [{"event": "mold-unfit", "at": 1.0, "slot": 0}])
    assert told.startswith("mold: unfit, not ready for 1m40s, pid 10, generation 1, 1 fork, 60 MB\n")
    assert "thread: poller" in told
    assert "app  500 ms" in told
    assert "mold-unfit" in told
    assert "thread: poller" in explanation(shot, shot["slots"][0], [])


def test_the_finding_of_a_slow_worker_has_its_median_and_that_of_its_peers():
    times = {"p50": 0.02, "p95": 0.1, "p99": 0.2}
    slow = {**SLOT, "notes": ["outlier_latency"], "latency": {"p50": 1.24, "p95": 2.0, "p99": 2.4}}
    peers = [{**SLOT, "slot": number, "latency": times} for number in (2, 3)]
    (finding,) = assess(changed(slots=[slow, *peers, {**SLOT, "slot": 4}]))
    assert finding.text == (
        "slot 1 is slow and its peers are not: its median of the last minute is 1.2 s, theirs 20 ms"
    )


@pytest.mark.parametrize(
    ("shot", "says"),
    [
        (changed(), "generation 1, serving;"),
        (changed(stand_in=True), "generation 1, answering 503;"),
        (changed(arbiter={"frozen": True}), "generation 1 frozen, serving;"),
    ],
)
def test_the_first_line_says_what_users_get(shot, says):
    assert says in headlines(shot)[0]


def test_a_slot_that_waits_for_memory_is_not_told_twice():
    limits = {**LIMITS, "surge": 1, "memory_bytes": 100 << 20, "memory_used_bytes": 90 << 20}
    assert [finding.code for finding in assess(changed(limits=limits))] == ["no-room-for-surge"]
    room = {"needed_bytes": 90 << 20, "missing_bytes": 30 << 20}
    waits = changed(limits=limits, slot={"state": "no_room", "no_room": room})
    assert [finding.code for finding in assess(waits)] == ["no-room"]
