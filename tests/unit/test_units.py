"""What people write for durations, sizes, switches and lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.config import units


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (30, 30),
        ("30", 30),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("10m", 600),
        ("6h", 21600),
        ("2d", 172800),
        (0, 0),
        (" 5 s ", 5),
    ],
)
def test_seconds(raw, value):
    assert units.seconds(raw) == value


@pytest.mark.parametrize(
    ("raw", "value"), [(400, 400 << 20), ("400M", 400 << 20), ("1.5G", 1536 << 20), ("512k", 512 << 10)]
)
def test_megabytes(raw, value):
    assert units.megabytes(raw) == value


@pytest.mark.parametrize("raw", ["soon", "-1", "5 parsecs", True, None, "", "1e3"])
def test_what_is_no_duration(raw):
    with pytest.raises(ValueError, match="is not a duration"):
        units.seconds(raw)


@pytest.mark.parametrize(
    ("raw", "value"), [("true", True), ("On", True), (1, True), ("0", False), ("", False), (False, False)]
)
def test_switch(raw, value):
    assert units.switch(raw) is value


@pytest.mark.parametrize(
    "parse", [units.switch, units.words, units.text, units.dotted, units.url_path, units.count(1)]
)
@given(
    raw=st.one_of(st.none(), st.floats(), st.binary(), st.dictionaries(st.text(), st.integers()), st.text())
)
def test_a_parser_returns_a_value_or_says_in_a_sentence_what_it_takes(parse, raw):
    problem = ""
    try:
        parse(raw)
    except ValueError as error:
        problem = str(error)
    assert problem == "" or " is not " in problem


def test_words():
    assert units.words("a, b,,c ") == ("a", "b", "c")
    assert units.words(["a", "b"]) == ("a", "b")
