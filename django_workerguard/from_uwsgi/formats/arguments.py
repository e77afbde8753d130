"""A translation as arguments and variables: which option is the guard's, and which is gunicorn's. Pure."""

from __future__ import annotations

from typing import Any

from django_workerguard.config.arguments import SERVER_OPTIONS
from django_workerguard.config.options import OPTIONS
from django_workerguard.from_uwsgi.translate.application import SETTINGS
from django_workerguard.from_uwsgi.translate.translation import Translation

# gunicorn's flags that are not made of the name of the setting
FLAGS = {
    "accesslog": "--access-logfile",
    "access_log_format": "--access-logformat",
    "errorlog": "--error-logfile",
    "syslog": "--log-syslog",
    "syslog_addr": "--log-syslog-to",
    "syslog_prefix": "--log-syslog-prefix",
    "pidfile": "--pid",
    "proc_name": "--name",
    "keepalive": "--keep-alive",
    "limit_request_field_size": "--limit-request-field_size",
    "uwsgi_allow_ips": "--uwsgi-allow-from",
}
SWITCHES = frozenset({"reload", "syslog"})  # flags without a value
EARLY = frozenset({"CHDIR", "PYTHONPATH"})  # needed before the settings can be read


def is_of_guard(key: str) -> bool:
    return key.lower() in OPTIONS


def serve_arguments(translation: Translation, *, without: frozenset[str] = frozenset()) -> list[list[str]]:
    """Return groups of arguments for ``python -m django_workerguard serve``, gunicorn's own after ``--``."""
    own: list[list[str]] = []
    passed_on: list[list[str]] = []
    if module := translation.environ.get(SETTINGS):
        own.append(["--settings", module])
    for key, value in translation.settings.items():
        if key in without:
            continue
        name = key.lower()
        if name in OPTIONS or name in SERVER_OPTIONS:
            flag = "--" + name.replace("_", "-")
            own += [[flag, text] for text in _texts(value)]
        elif name == "sendfile":
            passed_on += [] if value else [["--no-sendfile"]]
        elif name in SWITCHES:
            passed_on += [[FLAGS.get(name, f"--{name}")]] if value else []
        else:
            passed_on.append([FLAGS.get(name, "--" + name.replace("_", "-")), *_texts(value)])
    return [*own, *([["--"]] if passed_on else []), *passed_on]


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value]
    return [text(value)]


def text(value: Any) -> str:
    """Return a value as the command line and the environment spell it."""
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(map(str, value))
        case _:
            return str(value)


def variables(translation: Translation) -> dict[str, str]:
    """Return the environment of a server that has all its options there."""
    options = {f"WORKERGUARD_{key}": text(value) for key, value in translation.settings.items()}
    return {**translation.environ, **options}
