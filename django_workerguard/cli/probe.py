"""``workerguard probe``: read from the scoreboard if a server is live, ready or started. Runs in a process of its own.

A probe runs every few seconds, so this module imports only what a probe needs.
"""

from __future__ import annotations

import os
import sys
import time

from django_workerguard.config.project_path import here
from django_workerguard.report.verdict import judge
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.header import Header, Vitals, path_word

OK, UNAVAILABLE = 0, 69  # as in errors.ExitCode, whose import would slow down a probe


def probe_the_only_one(kind: str, of: int) -> int | None:
    """Probe the server if there is exactly one; return None if the full command must choose."""
    environ = os.environ
    run_dir = environ.get("WORKERGUARD_RUN_DIR") or None
    name = environ.get("WORKERGUARD_NAME")
    servers = []
    others = bool(run_dir or name)
    for path in discovery.board_paths(run_dir, environ=environ, uid=os.geteuid(), others=others):
        words = discovery.read_header(path, others=others)
        if words is not None and words[Header.KIND] == of and (not name or discovery.has_name(path, name)):
            servers.append(words)
    if not (run_dir or name) and os.path.exists("manage.py"):  # only this project's server is meant
        project = path_word(here())
        servers = [words for words in servers if words[Header.PROJECT] == project]
    return answer(kind, Vitals(servers[0])) if len(servers) == 1 else None


def answer(kind: str, vitals: Vitals, *, of: str = "") -> int:
    """Print the answer to a probe and return its exit code, which is the same if the answer cannot be written."""
    ok, reason = judge(kind, vitals, loaded=None, now=time.monotonic())
    try:
        sys.stdout.write(f"{'ok' if ok else 'unavailable'}: {reason}{f' ({of})' if of else ''}\n")
        sys.stdout.flush()
    except OSError as error:
        # imported late: a probe does without it
        from django_workerguard.config.output import cannot_write, show_error

        show_error(cannot_write(error))
    return OK if ok else UNAVAILABLE
