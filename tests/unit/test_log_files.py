"""At SIGUSR1 root gives a log file to the workers' user, and nothing that this user may have put in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_workerguard.server.signals import _hand_over

pytestmark = pytest.mark.needs("root")
USER = 12345


def link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def second_name(path: Path, precious: Path) -> None:
    path.hardlink_to(precious)


def pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path)


def test_a_log_file_is_the_workers_users(tmp_path):
    path = tmp_path / "error.log"
    path.touch()
    _hand_over(str(path), USER, USER)
    assert path.stat().st_uid == USER


@pytest.mark.parametrize("plant", [link, second_name, pipe])
def test_what_was_put_in_its_place_stays_roots(plant, tmp_path):
    path, precious = tmp_path / "error.log", tmp_path / "shadow"
    precious.write_text("precious")
    plant(path, precious)
    _hand_over(str(path), USER, USER)
    assert precious.stat().st_uid == 0
    assert path.lstat().st_uid == 0


def test_a_log_file_that_is_gone_costs_nothing(tmp_path):
    _hand_over(str(tmp_path / "none.log"), USER, USER)
