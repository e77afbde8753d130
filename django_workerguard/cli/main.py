"""The ``workerguard`` command: show and control a running server. Runs in a process of its own, without Django.

A probe runs every few seconds, so this module imports only what a probe needs.
"""

from __future__ import annotations

import sys

from django_workerguard.cli.probe import probe_the_only_one
from django_workerguard.config import standard_streams
from django_workerguard.report.verdict import KINDS
from django_workerguard.scoreboard.header import ServerKind


def main(argv: list[str] | None = None, prog: str = "workerguard") -> int:
    """Run one command and return its exit code."""
    standard_streams.open_missing()
    argv = sys.argv[1:] if argv is None else argv
    celery = "--celery" in argv
    rest = [argument for argument in argv if argument != "--celery"]
    if len(rest) == 2 and rest[0] == "probe" and rest[1] in KINDS and len(argv) - len(rest) <= 1:
        exit_code = probe_the_only_one(rest[1], ServerKind.POOL if celery else ServerKind.WEB)
        if exit_code is not None:
            return exit_code
    from django_workerguard.cli.commands import run  # imported late: it needs argparse, JSON and dataclasses

    return run(argv, prog)
