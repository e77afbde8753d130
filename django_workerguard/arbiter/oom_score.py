"""The arbiter's own score for the kernel's OOM killer, which its children do not inherit. Runs in the arbiter.

In a process that the arbiter forks, `_give_back` runs first of all.
"""

from __future__ import annotations

import contextlib
import os

LESS = 100  # as if it had a tenth of the memory less
LOWEST = -999  # -1000 would exempt it for good
FILE = "/proc/{}/oom_score_adj"


class _Score:
    inherited: int | None = None  # by the arbiter, while its own is lower
    has_hook = False


def protect_arbiter() -> None:
    """Lower the score of this process, if it may: only root may, and not in every container."""
    with contextlib.suppress(OSError, ValueError):
        with open(FILE.format("self")) as file:
            inherited = int(file.read())
        if _Score.inherited is None and inherited > LOWEST:
            _write("self", max(LOWEST, inherited - LESS))
            _Score.inherited = inherited
            if not _Score.has_hook:
                _Score.has_hook = True
                os.register_at_fork(after_in_child=_give_back)


def give_back_for(pid: int) -> None:
    """Give a program that was started without a fork of Python's the score that the arbiter has inherited."""
    if _Score.inherited is not None:
        with contextlib.suppress(OSError):
            _write(str(pid), _Score.inherited)


def _give_back() -> None:
    if _Score.inherited is not None:
        with contextlib.suppress(OSError):
            _write("self", _Score.inherited)
        _Score.inherited = None


def _write(pid: str, score: int) -> None:
    with open(FILE.format(pid), "w") as file:
        file.write(str(score))
