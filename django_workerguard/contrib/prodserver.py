"""A backend for django-prodserver: ``manage.py server`` starts the guarded server. Runs in manage.py."""

from __future__ import annotations

import sys

from django.core.management import load_command_class
from django_prodserver.backends.base import BaseServerBackend


class GuardedServer(BaseServerBackend):
    """``BACKEND``; its ``ARGS`` are the options of ``serve_guarded``.

    Raises CommandError as ``serve_guarded`` does, and does not return once the server has started.
    """

    def start_server(self, *args: str) -> None:
        load_command_class("django_workerguard", "serve_guarded").run_from_argv(
            [sys.argv[0], "serve_guarded", *args]
        )
