"""``manage.py serve_guarded``: hand what is configured to a clean interpreter, which serves. Runs in manage.py."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from django_workerguard.conf import settings_layer
from django_workerguard.config.arguments import add_arguments, collect, split_at_dashes
from django_workerguard.config.handover import Handover, applications_of
from django_workerguard.errors import WorkerguardError
from django_workerguard.launch import launch, require_linux


class Command(BaseCommand):
    """Serve the project with guarded workers."""

    help = "Serve the project: pre-forked workers that are replaced, retried and known to be loaded."
    from_command_line = False
    passed_on: list[str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)

    def run_from_argv(self, argv: list[str]) -> None:
        own, self.passed_on = split_at_dashes(argv)
        self.from_command_line = True
        super().run_from_argv(own)

    def get_check_kwargs(self, options: dict[str, Any]) -> dict[Any, Any]:
        """Run the system checks without a database: Django 6.1 asks all of them, and one may be away."""
        return super().get_check_kwargs(options) | {"databases": []}

    def handle(self, *args: Any, **options: Any) -> None:
        if not self.from_command_line:
            raise CommandError(
                "serve_guarded replaces the process that runs it, so it cannot be called from a living program. "
                "Run it as a command: python manage.py serve_guarded."
            )
        try:
            require_linux()
            action, guard, server = collect(options)
            handover = Handover(
                action=action,
                project=str(_project()),
                settings_module=os.environ.get("DJANGO_SETTINGS_MODULE", ""),
                sys_path=list(sys.path),
                setting=settings_layer(),
                applications=applications_of(settings),
                guard=guard,
                server=server,
                passed_on=self.passed_on,
            )
            connections.close_all()
            launch(handover)
        except WorkerguardError as error:
            raise CommandError(str(error), returncode=int(error.exit_code)) from None


def _project() -> Path:
    """Return the directory of manage.py, or the current one under ``django-admin``."""
    script = Path(sys.argv[0]).resolve()
    return script.parent if script.name == "manage.py" else Path.cwd()
