"""Events of the journal in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.report.sentences import SENTENCES, sentence
from django_workerguard.report.tables import event_line

EVENTS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "events.md"
WORKER = {"slot": 2, "pid": 99, "generation": 1}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"event": "ready", **WORKER, "load_seconds": 0.9, "ready": 3, "target": 4},
            "Slot 2: worker (pid 99) is ready after 0.9 s (3 of 4 ready)",
        ),
        (
            {"event": "load-failed", **WORKER, "type": "MemoryError", "message": "none", "step": "app"},
            "Slot 2: worker (pid 99) could not load in step app: MemoryError: none",
        ),
        (
            {"event": "exited", **WORKER, "end": "killed by SIGKILL", "by": "unknown", "lived": 65.0, "requests": 7},
            "Slot 2: worker (pid 99) ended: killed by SIGKILL (sender unknown, no OOM kill was recorded); after 1m05s, 7 requests",
        ),
        ({"event": "back-off", **WORKER, "seconds": 90, "failures": 1}, "Slot 2 is tried again in 1m30s, after 1 failed load"),
        ({"event": "spawn-failed", "slot": None, "reason": "no memory"}, "The stand-in: no process could be started: no memory"),
        ({"event": "load-failed", "slot": 0, "pid": 9, "type": "E"}, "The mold (pid 9) could not load: E"),
        (
            {"event": "slow-request", **WORKER, "method": "GET", "path": "/a/", "view": "v", "age": 12.04},
            "Slot 2: worker (pid 99) has served GET /a/ (v) for 12.0 s, and goes on",
        ),
        ({"event": "asked", "do": "reload", "by_user": "ann", "refused": "stopping"}, "ann asked for reload, and was refused: stopping"),
        ({"event": "teleported", "slot": 1}, "teleported"),
        ({"event": "back-off", "slot": 1, "seconds": "soon"}, "back-off"),
        ({"event": "ready", "slot": 1, "target": 4}, "ready"),
        ({"event": "duty", "who": "a\tb\n c", "on": True}, "The a b c answers 503"),
    ],
)  # fmt: skip
def test_an_event_in_words(event, text):
    assert sentence(event) == text


def test_every_event_of_the_reference_has_a_sentence():
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", EVENTS_PAGE.read_text(), re.MULTILINE))
    assert documented == set(SENTENCES)


VALUES = st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.lists(st.text()), st.booleans())
FIELDS = (
    "slot",
    "pid",
    "seconds",
    "lived",
    "age",
    "hazards",
    "reason",
    "rss_bytes",
    "load_seconds",
    "next_try",
    "by",
)


@given(st.sampled_from([*SENTENCES, "?"]), st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_a_damaged_event_is_one_line_of_text_too(name, fields):
    text = sentence({"event": name, **fields})
    assert text.isprintable()
    assert text


@pytest.mark.parametrize("name", [None, [], {}, 7])
def test_a_damaged_name_is_shown_as_it_is(name):
    assert str(name) in event_line({"event": name, "at": 1})
    assert sentence({"event": name}) == str(name)
