"""The app of the guard under uWSGI, for ``INSTALLED_APPS``. Runs wherever Django does, and acts in uWSGI's workers only."""

from __future__ import annotations

import logging
import os
from typing import Any

from django.apps import AppConfig

LONGEST_BACK_OFF = 10.0  # seconds; elsewhere it is longer, but here a worker answers 500 while it waits

logger = logging.getLogger("django_workerguard")


class UwsgiGuardConfig(AppConfig):
    """Configuration of the app ``django_workerguard.contrib.uwsgi``."""

    name = "django_workerguard.contrib.uwsgi"
    label = "workerguard_uwsgi"
    verbose_name = "Workerguard under uWSGI"

    def ready(self) -> None:
        from django_workerguard.contrib.uwsgi import checks  # noqa: F401 - registers it

        try:
            _start()
        except Exception:
            logger.exception("The guard under uWSGI cannot start. The site is not affected")


def _start() -> None:
    from django_workerguard.contrib.uwsgi.server import this_server

    server = this_server()
    if server is None:
        return
    if server.worker_id and server.master and not server.loads_on_request:
        _guard(server)
    elif server.is_master or server.worker_id:
        logger.warning("The guard under uWSGI does nothing: %s", _why_not(server))


def _why_not(server: Any) -> str:
    if server.is_master:
        return "the application was loaded in uWSGI's master, so a worker cannot fail to load it (lazy-apps is off)"
    if not server.master:
        return "without uWSGI's option master no process starts a worker again"
    return "with the option vhost a worker has no application until a request comes for it"


def _guard(server: Any) -> None:
    from django.conf import settings
    from django.core.signals import request_finished

    from django_workerguard.conf import split_setting
    from django_workerguard.config.django_settings import settings_module
    from django_workerguard.config.resolve import ENVIRONMENT, SETTING, Layer, from_environ, resolve
    from django_workerguard.contrib.uwsgi.guard import Guard
    from django_workerguard.errors import DEFAULT
    from django_workerguard.worker.current import set_board_source

    environment, _, _ = from_environ(os.environ, ())
    own_defaults = {"load_retry_max_delay": LONGEST_BACK_OFF}
    layers = [
        Layer(DEFAULT, own_defaults),
        Layer(SETTING, split_setting()[0]),
        Layer(ENVIRONMENT, environment),
    ]
    options = resolve(layers).options
    about = {"settings": settings_module(settings), "debug": settings.DEBUG}
    guard = Guard(server, options, about, attended=server.runs_threads)
    if server.runs_threads:
        set_board_source(guard.board)
        guard.start_thread()
        return
    request_finished.connect(guard.after_request, weak=False, dispatch_uid=__name__)
    if server.worker_id == 1:
        logger.warning(
            "uWSGI runs no Python threads, so the guard looks at the other workers only when a request has ended, and "
            "workerguard status does not show them. Set enable-threads = true"
        )
