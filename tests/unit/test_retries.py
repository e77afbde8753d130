"""Servers that cannot read their settings at the same moment do not try again at the same moment."""

from __future__ import annotations

from django_workerguard.config.options import GuardOptions
from django_workerguard.config.settings_exchange import Answer
from django_workerguard.server import start


def test_each_start_waits_for_a_time_of_its_own(monkeypatch, capsys):
    waits: list[float] = []
    monkeypatch.setattr(start.time, "sleep", waits.append)
    for _ in range(4):
        start._wait(1, GuardOptions(load_retry_delay=100.0, load_retry_max_delay=1000.0), Answer(error="no"))
    assert len(set(waits)) == 4
    assert all(200.0 <= wait <= 400.0 for wait in waits)
    assert "retrying in" in capsys.readouterr().err
