"""Fifty replacements by every cause leave nothing behind; `make soak` makes a thousand."""

from __future__ import annotations

from tests.process.soak import OPTIONS, leaks, soak


def test_fifty_replacements_leave_nothing_behind(serve, faults):
    server = serve(*OPTIONS)
    assert leaks(*soak(server, faults, 50, tell=print)) == []
    assert server.status()["arbiter"]["errors"] == 0
