"""Forms in which a translation is written. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django_workerguard.from_uwsgi.formats import command, container, python, unit
from django_workerguard.from_uwsgi.translate.translation import Translation

FORMATS: Mapping[str, Callable[[Translation], str]] = {
    "settings": python.settings,
    "command": command.command,
    "env": command.environment_file,
    "gunicorn-conf": python.gunicorn_conf,
    "systemd": unit.unit,
    "compose": container.compose,
    "k8s": container.kubernetes,
}
