"""What systemd shows of a server in a line."""

from __future__ import annotations

import pytest

from django_workerguard.server.supervisor import Standing


@pytest.mark.parametrize(
    ("ready", "frozen", "why", "text"),
    [
        (4, False, "", "4 of 4 workers ready"),
        (4, False, "the load failed: E", "4 of 4 workers ready"),
        (3, False, "the load failed: E", "3 of 4 workers ready; the load failed: E"),
        (
            4,
            True,
            "the load failed: E",
            "4 of 4 workers ready; frozen: the new code cannot be loaded, the old serves on; the load failed: E",
        ),
    ],
)
def test_what_is_wrong_is_said_even_where_all_are_ready(ready, frozen, why, text):
    standing = Standing(
        ready=ready, target=4, reached=True, reloading=False, stopping=False, why=why, frozen=frozen
    )
    assert standing.text == text
