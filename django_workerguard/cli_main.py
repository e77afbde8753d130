"""The ``workerguard`` command: look at a running server. Runs in a process of its own, without Django.

A probe runs every few seconds: nothing is imported for it that it does not need.
"""

from __future__ import annotations

import os
import sys
import time

from django_workerguard.config.project_path import here
from django_workerguard.report.verdict import KINDS, judge
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.header import Header, Kind, Vitals, path_word

OK, USAGE, UNAVAILABLE, NO_SERVER = 0, 2, 69, 72  # errors.ExitCode, which would cost a probe its import


def main(argv: list[str] | None = None, prog: str = "workerguard") -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    celery = "--celery" in argv
    rest = [argument for argument in argv if argument != "--celery"]
    if len(rest) == 2 and rest[0] == "probe" and rest[1] in KINDS and len(argv) - len(rest) <= 1:
        told = _probe_the_only_one(rest[1], Kind.POOL if celery else Kind.WEB)
        if told is not None:
            return told
    from django_workerguard.commands import run  # late: argparse, JSON and dataclasses

    return run(argv, prog)


def _probe_the_only_one(kind: str, of: int) -> int | None:
    """Probe where there is exactly one server; None where it takes a closer look."""
    environ = os.environ
    run_dir = environ.get("WORKERGUARD_RUN_DIR") or None
    name = environ.get("WORKERGUARD_NAME")
    found = []
    others = bool(run_dir or name)
    for path in discovery.boards(run_dir, environ=environ, uid=os.geteuid(), others=others):
        words = discovery.head(path, others=others)
        if words is not None and words[Header.KIND] == of and (not name or discovery.matches(path, name)):
            found.append(words)
    if not (run_dir or name) and os.path.exists("manage.py"):  # this project's is meant
        project = path_word(here())
        found = [words for words in found if words[Header.PROJECT] == project]
    return tell(kind, Vitals(found[0])) if len(found) == 1 else None


def tell(kind: str, vitals: Vitals, *, of: str = "") -> int:
    """Print the answer to a probe and return its exit code."""
    ok, reason = judge(kind, vitals, loaded=None, now=time.monotonic())
    sys.stdout.write(f"{'ok' if ok else 'unavailable'}: {reason}{f' ({of})' if of else ''}\n")
    return OK if ok else UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
