"""``manage.py workerguard``: the ``workerguard`` command as a management command. Runs in manage.py."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from django_workerguard.cli.main import main


class Command(BaseCommand):
    """Show and control the running server."""

    help = "Show and control the guarded server of this project: status, events, probe, reload, recycle, scale, explain; drill: try faults on the project."
    requires_system_checks = ()

    def run_from_argv(self, argv: list[str]) -> None:
        sys.exit(main(argv[2:], prog=f"{argv[0]} workerguard"))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("arguments", nargs="*")

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(main(options["arguments"], prog="workerguard"))
