"""At a log rotation root gives the new file to the workers' user, and nothing that this user has put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_workerguard.server.signals import _hand_over

pytestmark = pytest.mark.needs("root")

USER = 12345


def a_file(path: Path, precious: Path) -> None:
    path.touch()


def a_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def a_second_name(path: Path, precious: Path) -> None:
    os.link(precious, path)


def a_pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path)


def nothing(path: Path, precious: Path) -> None:
    """There is no file."""


@pytest.mark.parametrize(
    ("make", "given"),
    [(a_file, True), (a_link, False), (a_second_name, False), (a_pipe, False), (nothing, False)],
)
def test_only_a_plain_file_of_one_name_is_given_to_the_workers_user(make, given, tmp_path):
    log, precious = tmp_path / "error.log", tmp_path / "shadow"
    precious.write_text("precious")
    make(log, precious)
    _hand_over(str(log), USER, USER)
    assert precious.stat().st_uid == 0
    if log.exists():
        assert (log.lstat().st_uid == USER) is given
