"""What a load left open: which of it is accepted, and that a worker's report of it is made safe."""

from __future__ import annotations

import pytest

from django_workerguard.config.load_request import Step, unaccepted
from django_workerguard.scoreboard.sanitise import clean_report

LEFT = ("thread:poller-1", "socket:10.0.0.5:443")


@pytest.mark.parametrize(
    ("patterns", "rest"),
    [
        ((), LEFT),
        (("app",), ()),
        (("lazy",), LEFT),
        (("app:thread:*",), LEFT[1:]),
        (("*:thread:poller-?",), LEFT[1:]),
        (("thread:poller-1",), LEFT),
        (("app:socket:10.0.0.5:443", "*:poller-1"), ()),
    ],
)
def test_patterns_accept_a_step_or_one_thing_of_it(patterns, rest):
    assert unaccepted(Step("app", 0.1, 0, 0, 1, 1, True, left=LEFT), patterns) == rest


@pytest.mark.parametrize("nonsense", [None, 5, "text", {"a": 1}, [[1], None, "x"]])
def test_a_report_of_any_form_is_made_safe(nonsense):
    (step,) = clean_report({"steps": [{"name": "app", "left": nonsense, "skipped": nonsense}]})["steps"]
    assert all(isinstance(name, str) for name in step["left"])
    assert step["skipped"] == []


def test_the_reason_of_a_part_that_was_left_out_survives_the_cleaning():
    part = {"part": "MAILERS: bulk", "type": "ImportError", "message": "no"}
    (step,) = clean_report({"steps": [{"name": "lazy", "skipped": [{**part, "more": 1}, {"part": None}]}]})[
        "steps"
    ]
    assert step["skipped"] == [part, {"part": "", "type": "", "message": ""}]
