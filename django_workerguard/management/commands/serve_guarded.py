"""``manage.py serve_guarded``: hand the configuration to a clean interpreter, which serves. Runs in manage.py."""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import ArgumentParser
from dataclasses import replace
from typing import Any

import django
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from django_workerguard.cli.launch import launch, reading_ahead, require_linux
from django_workerguard.conf import settings_layer
from django_workerguard.config import standard_streams
from django_workerguard.config.arguments import add_arguments, collect, kept_by_program, split_at_dashes
from django_workerguard.config.django_settings import settings_module
from django_workerguard.config.environment import additions, as_started
from django_workerguard.config.handover import Handover, applications_of
from django_workerguard.config.project_path import through_link, working_directory
from django_workerguard.errors import WorkerguardError


class Command(BaseCommand):
    """Serve the project with guarded workers."""

    help = "Serve the project with pre-forked workers. A worker serves only after it is loaded, and is replaced when it fails."
    from_command_line = False
    passed_on: list[str]
    entry_arguments: list[str]
    reading: dict[str, Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        standard_streams.open_missing()  # before Django takes the streams
        super().__init__(*args, **options)

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)

    def run_from_argv(self, argv: list[str]) -> None:
        own, self.passed_on = split_at_dashes(argv)
        self.entry_arguments = kept_by_program(sys.orig_argv, sys.argv[0], argv)
        self.from_command_line = True
        super().run_from_argv(own)

    def get_check_kwargs(self, options: dict[str, Any]) -> dict[Any, Any]:
        """Run the system checks without a database: Django 6.1 checks all databases, and one may not be reachable."""
        return super().get_check_kwargs(options) | {"databases": []}

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Have the settings read for the server while the system checks run, and until the server can take the answer."""
        with self._reading_ahead(options) as self.reading:
            return super().execute(*args, **options)

    def _reading_ahead(self, options: dict[str, Any]) -> contextlib.AbstractContextManager[dict[str, Any]]:
        none = contextlib.nullcontext[dict[str, Any]]({})
        if not self.from_command_line or not settings.configured:
            return none
        try:
            require_linux()
            handover = self._handover(options)
        except WorkerguardError:  # `handle` raises it, after the system checks
            return none
        return none if handover.configured else reading_ahead(handover)

    def _handover(self, options: dict[str, Any]) -> Handover:
        action, guard, server = collect(options)
        return _handover(
            action=action,
            guard=guard,
            server=server,
            passed_on=self.passed_on,
            entry_arguments=self.entry_arguments,
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not self.from_command_line:
            raise CommandError(
                "serve_guarded replaces the process that runs it, so a program cannot call it. "
                "Run it as a command: python manage.py serve_guarded."
            )
        try:
            require_linux()
            handover = replace(self._handover(options), reading=self.reading)
            connections.close_all()
            launch(handover)
        except WorkerguardError as error:
            raise CommandError(str(error), returncode=int(error.exit_code)) from None


def _handover(**arguments: Any) -> Handover:
    """Return the handover to the server. The server reads the settings itself, unless they are not a module."""
    directory = working_directory(os.environ)
    entry = _entry(directory)
    project = os.path.dirname(entry) if os.path.basename(entry) == "manage.py" else directory
    module = settings_module(settings)
    return Handover(
        project=project,
        directory=directory,
        entry=entry,
        settings_module=module,
        configured=not module,
        sys_path=through_link(through_link(sys.path, directory), project),
        environ=_changes(),
        setting=settings_layer(),
        applications=applications_of(settings),
        debug=bool(settings.DEBUG),
        **arguments,
    )


def _entry(directory: str) -> str:
    """Return the path of the program that runs this command, as it was started; "" for Django's own.

    Its name on the command line is relative to the working directory of the start, which the program may have left.
    """
    name, program = sys.argv[0], getattr(sys.modules["__main__"], "__file__", None) or ""
    # it is not if it is in a zip file, or a profiler that runs manage.py
    is_program = os.path.isfile(program) and os.path.basename(program) == os.path.basename(name)
    named = [os.path.join(start, name) for start in (directory, as_started().get("PWD", ""))]
    files = [path for path in named if os.path.isfile(path)]
    if is_program:
        files = [*(path for path in files if os.path.samefile(path, program)), program]
    path = os.path.normpath(files[0]) if files else ""
    return "" if path.startswith(os.path.dirname(django.__file__)) else path


def _changes() -> dict[str, str | None]:
    """Return the changes of manage.py and the settings to the environment, until the server has found the changes itself."""
    changes = additions(as_started(), os.environ)
    return {name: value for name, value in changes.items() if name != "TZ"}  # set by Django, from TIME_ZONE
