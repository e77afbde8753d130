"""Which arguments of its command line manage.py has kept for itself, and which it has passed on to Django."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.config.arguments import kept_by_program

PYTHON = ["python", "-X", "dev"]


@pytest.mark.parametrize(
    ("started", "passed", "kept"),
    [
        ("m serve", "m serve", "serve"),
        ("m --prod serve -w 2", "m serve -w 2", "--prod serve"),
        ("m serve --prod -w 2", "m serve -w 2", "serve --prod"),
        ("m --debug serve --debug", "m serve --debug", "--debug serve"),
        ("m run-server", "m serve -w 2", "run-server serve"),
        ("other serve --prod", "m serve", "serve"),
    ],
)
def test_kept_by_program(started: str, passed: str, kept: str) -> None:
    assert kept_by_program([*PYTHON, *started.split()], "m", passed.split()) == kept.split()


words = st.lists(st.sampled_from(["--prod", "-w", "2", "x"]))


@given(own=words, passed=words)
def test_own_arguments_before_the_command_are_kept_whatever_is_passed_on(
    own: list[str], passed: list[str]
) -> None:
    started = [*PYTHON, "m", *own, "serve", *passed]
    assert kept_by_program(started, "m", ["m", "serve", *passed]) == [*own, "serve"]
