"""asyncio's word of a connection that a fork has ended is left out, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

from django_workerguard.server.gunicorn_control import EndedConnections


def record(error: BaseException | None) -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord("asyncio", logging.ERROR, __file__, 1, "Exception in callback", (), info)


@pytest.mark.parametrize(
    ("error", "logged"), [(asyncio.CancelledError(), False), (OSError(), True), (None, True)]
)
def test_only_cancelled_tasks_are_left_out(error, logged):
    assert EndedConnections().filter(record(error)) is logged


def test_a_child_logs_them(monkeypatch):
    ended = EndedConnections()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert ended.filter(record(asyncio.CancelledError()))
