"""Plain gunicorn of the same settings, for ``--against gunicorn``: its conf file and the module that it loads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from django_workerguard.drill.configuration import Configuration
from django_workerguard.drill.overrides import SERVER_HOOKS

MODULE = "workerguard_drill_site"
# what plain gunicorn gets from WORKERGUARD and the command line, with the type of the value
COPIED = {
    "worker-class": str,
    "threads": int,
    "timeout": int,
    "graceful-timeout": int,
    "keepalive": int,
    "backlog": int,
    "worker-connections": int,
    "max-requests": int,
    "max-requests-jitter": int,
    "certfile": str,
    "keyfile": str,
}


def conf_file(configuration: Configuration, directory: PurePath, *, workers: int, user_file: str) -> str:
    """Return the text of gunicorn.conf.py: the user's, then the same values, then what keeps it private."""
    lines = ["from django_workerguard.drill.fault import nothing, nothing_of_three"]
    if user_file:
        lines.append(f"exec(compile(open({user_file!r}).read(), {user_file!r}, 'exec'))")
    lines.append(f"workers = {workers}")
    for name, kind in COPIED.items():
        value = configuration[name]
        if value.is_set and value.text:
            lines.append(
                f"{name.replace('-', '_')} = {kind(float(value.text)) if kind is int else value.text!r}"
            )
    lines += [
        f"bind = ['unix:{directory}/http.sock']",
        f"pidfile = '{directory}/plain.pid'",
        "accesslog = None",
        "errorlog = '-'",
        "logconfig = None",
        "logconfig_json = None",
        "syslog = False",
        "statsd_host = None",
        "control_socket_disable = True",
        "preload_app = False",
        "daemon = False",
    ]
    lines += [f"{hook.replace('-', '_')} = {name.rpartition('.')[2]}" for hook, name in SERVER_HOOKS.items()]
    return "\n".join((*lines, ""))


def site_module(applications: Mapping[str, str], configuration: Configuration) -> str:
    """Return the text of the module that loads the site, makes the fault, and marks the process as loaded."""
    interface = "asgi" if is_asgi(configuration["worker-class"].text) else "wsgi"
    named = configuration["app"].text or applications.get(interface, "")
    lines = ["from django_workerguard.drill import fault"]
    if named:
        module, _, attribute = named.partition(":")
        attribute = attribute or "application"
        lines += [f"import {module} as _module", f"application = _module.{attribute}"]
    else:
        lines += [
            f"from django.core.{interface} import get_{interface}_application",
            f"application = get_{interface}_application()",
        ]
    return "\n".join((*lines, "fault.probe()", "fault.mark_loaded()", ""))


def is_asgi(worker_class: str) -> bool:
    """Return whether a worker class serves ASGI, by its name."""
    return "asgi" in worker_class.lower() or "uvicorn" in worker_class.lower()
