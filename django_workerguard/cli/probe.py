"""``workerguard probe``: ask a server's header whether it is live, ready or started. Runs in a process of its own.

A probe runs every few seconds: nothing is imported for it that it does not need.
"""

from __future__ import annotations

import os
import sys
import time

from django_workerguard.config.project_path import here
from django_workerguard.report.verdict import judge
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.header import Header, Vitals, path_word

OK, UNAVAILABLE = 0, 69  # errors.ExitCode, which would cost a probe its import


def probe_the_only_one(kind: str, of: int) -> int | None:
    """Probe where there is exactly one server; None where it takes a closer look."""
    environ = os.environ
    run_dir = environ.get("WORKERGUARD_RUN_DIR") or None
    name = environ.get("WORKERGUARD_NAME")
    found = []
    others = bool(run_dir or name)
    for path in discovery.board_paths(run_dir, environ=environ, uid=os.geteuid(), others=others):
        words = discovery.read_header(path, others=others)
        if words is not None and words[Header.KIND] == of and (not name or discovery.has_name(path, name)):
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
