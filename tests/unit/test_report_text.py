"""A report of any size fits into its region, and keeps what explains a hang or a failure; a server's description fits too."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.layout import ABOUT_WORDS, TEXT_WORDS, Layout
from django_workerguard.scoreboard.report_text import fit, fit_about

ROOM = (TEXT_WORDS - 2) * WORD
# long texts are repetitions: Hypothesis draws no text of thousands of characters
texts = st.builds(lambda text, times: text * times, st.text(max_size=20), st.sampled_from([1, 50, 1000]))
numbers = st.integers(0, 2**53) | st.floats(allow_nan=False)
lists = st.builds(lambda items, times: items * times, st.lists(texts, max_size=5), st.sampled_from([1, 25]))
step = st.fixed_dictionaries({"name": texts, "seconds": numbers}, optional={"left": lists})
error = st.fixed_dictionaries(
    {"type": texts, "message": texts},
    optional={"traceback": texts, "step": st.none() | texts, "at": numbers, "hazards": lists},
)
reports = st.fixed_dictionaries(
    {"step": st.none() | texts},
    optional={
        "steps": st.builds(
            lambda steps, times: steps * times, st.lists(step, max_size=5), st.sampled_from([1, 40])
        ),
        "outdated": lists,
        "threads": texts,
        "hazards": lists,
        "error": error,
    },
)
abouts = st.fixed_dictionaries(
    {"name": texts, "project": texts, "bind": lists, "debug": st.booleans(), "settings": texts, "host": texts}
)


@settings(max_examples=100, deadline=None)
@given(reports)
def test_any_report_fits_and_keeps_its_step_and_the_cause(report):
    fitted = fit(report, ROOM)
    text = json.dumps(fitted, separators=(",", ":"))
    assert len(text) <= ROOM
    assert json.loads(text) == fitted
    assert bool(fitted["step"]) == bool(report["step"])
    if "error" in report:
        for key in ("type", "message"):
            assert bool(fitted["error"][key]) == bool(report["error"][key])
    steps = fitted.get("steps", [])
    assert steps == report.get("steps", [])[len(report.get("steps", [])) - len(steps) :], "the newest"


@settings(max_examples=100, deadline=None)
@given(abouts)
def test_any_description_of_a_server_fits(about):
    fitted = fit_about(about, (ABOUT_WORDS - 2) * WORD)
    assert len(json.dumps(fitted, separators=(",", ":"))) <= (ABOUT_WORDS - 2) * WORD
    assert fitted.keys() == about.keys()
    assert fitted["debug"] is about["debug"]


def test_a_server_with_many_long_addresses_keeps_its_name():
    board = Board.create(Layout(seats=1, slots=1), None)
    addresses = [f"unix:/srv/{'long/' * 30}{number}.sock" for number in range(40)]
    board.write_about({"name": "shop", "project": "/srv/shop", "bind": addresses})
    about = board.read_about()
    assert (about["name"], about["project"]) == ("shop", "/srv/shop")
    assert about["bind"] == addresses[: len(about["bind"])] != []


def warm_up(count: int) -> list[dict]:
    return [
        {"name": f"warmup:/shop/{number}/", "seconds": 0.1, "peak_bytes": 1 << 22, "left": [], "skipped": []}
        for number in range(count)
    ]


def test_the_step_of_a_hang_is_known_after_many_warm_up_paths():
    steps = warm_up(400)
    report = {"step": "warmup:/slow/", "steps": steps, "outdated": ["gunicorn"], "threads": "a, b"}
    fitted = fit(report, ROOM)
    assert {**fitted, "steps": steps} == report
    assert 100 < len(fitted["steps"]) < 400


def test_an_error_is_not_lost_beside_large_steps():
    steps = [{**one, "left": ["x" * 1000] * 3} for one in warm_up(30)]
    board = Board.create(Layout(seats=1, slots=1), None)
    report = {
        "step": "urlconf",
        "steps": steps,
        "error": {"type": "X", "message": "m", "traceback": "t" * 9000},
    }
    board.write_seat_report(0, report)
    board.write_last_error(1, report["error"], steps=steps)
    read, last = board.read_seat_report(0), board.read_last_error(1)
    board.close()
    assert (read["error"]["type"], read["error"]["message"], read["step"]) == ("X", "m", "urlconf")
    assert (last["type"], last["traceback"][-1]) == ("X", "t")
    assert read["steps"]
