"""What is hidden in a text, and that a long one is shortened before it is searched."""

from __future__ import annotations

import pytest

from django_workerguard.config.cleanse import LONGEST, SUBSTITUTE, cleanse

HIDDEN = "hunter22hunter"


@pytest.mark.parametrize(
    "text",
    [
        f"password={HIDDEN}",
        f'{{"api_key": "{HIDDEN}"}}',
        f"my.very-secret.token : '{HIDDEN}'",
        f"Authorization: Bearer {HIDDEN}",
        f"refused: bearer {HIDDEN}",
        f"postgres://user:{HIDDEN}@db/shop",
        f"postgres://user:p@{HIDDEN}/word@db/shop",
        "x" * 100 + f" pass={HIDDEN}",
    ],
)
def test_it_is_hidden(text):
    told = cleanse(text, [])
    assert HIDDEN not in told
    assert SUBSTITUTE in told


@pytest.mark.parametrize(
    "text", ["no such table: shop_book", "bearer authentication failed", "http://127.0.0.1:8000/a b@c"]
)
def test_what_is_no_secret_stays(text):
    assert cleanse(text, []) == text


@pytest.mark.parametrize("unit", ["A", "A.", "key", "a:", "http://a:", "pass-"])
@pytest.mark.timeout(20)  # it took minutes where every place was a beginning
def test_a_long_line_is_shortened(unit):
    text = "server said: " + unit * (200_000 // len(unit))
    told = cleanse(text, [])
    assert len(told) <= LONGEST + 40
    assert told.startswith("server said: ")


def test_a_secret_is_hidden_before_a_line_is_cut_in_its_middle():
    told = cleanse("x" * (LONGEST - 5) + HIDDEN, [HIDDEN])
    assert HIDDEN[:5] not in told
