"""The completion of ``workerguard`` in a real shell, and what is said where its package is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from django_workerguard import __version__
from django_workerguard.cli.main import main


def complete(script: str, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    line = f"""{script}
COMP_WORDS=({" ".join(map(repr, words))}); COMP_CWORD={len(words) - 1}
_shtab_workerguard; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return subprocess.run(
        ["bash", "--norc", "-c", line], capture_output=True, text=True, check=True
    ).stdout.split()


def test_bash_completes_commands_and_options(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert complete(script, "workerguard", "st") == ["status", "stacks"]
    assert complete(script, "workerguard", "probe", "re") == ["ready"]
    assert complete(script, "workerguard", "status", "--w") == ["--watch"]
    assert complete(script, "workerguard", "drill", "--act", "re") == ["reload", "recycle"]


def test_a_missing_package_is_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == (
        "Error: the completion of commands needs the package shtab. Install it: pip install 'django-workerguard[completion]'.\n"
    )


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"django-workerguard {__version__}\n"
