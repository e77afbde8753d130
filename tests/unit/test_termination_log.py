"""The reason for which a server ended, in Kubernetes' termination log."""

from __future__ import annotations

from django_workerguard.arbiter.exits import leave_word


def test_a_reason_that_cannot_be_encoded(tmp_path):
    path = tmp_path / "termination-log"
    path.touch()
    leave_word("settings: Größe \udc80", path=path)
    assert path.read_text(encoding="utf-8") == "settings: Größe ?\n"
