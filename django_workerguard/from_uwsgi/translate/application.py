"""Rules for the application, its directory, its import path and its environment. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from django_workerguard.from_uwsgi.directive import Directive
from django_workerguard.from_uwsgi.translate.draft import (
    Draft,
    Outcome,
    ValueNotUnderstoodError,
    becomes,
    is_on,
    lost,
    not_needed,
)
from django_workerguard.from_uwsgi.translate.workers import Rule

CALLABLE = "application"
SETTINGS = "DJANGO_SETTINGS_MODULE"
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DJANGOS_OWN = ("django.core.handlers.wsgi", "django.core.wsgi")


def _module(one: Directive, draft: Draft) -> Outcome:
    module, _, name = one.value.strip().partition(":")
    return _app(module, name, draft)


def _app(module: str, name: str, draft: Draft) -> Outcome:
    if module.endswith(".py") or "/" in module:
        return _from_file(module, name, draft)
    if module in DJANGOS_OWN:
        return not_needed(f"Django's own application is the default; the settings are those of {SETTINGS}")
    name = name or draft.last("callable") or CALLABLE
    if not _DOTTED.fullmatch(module) or not _DOTTED.fullmatch(name):
        return lost(
            f"{module}:{name} is not the name of an object: assign the application to a name, and set APP to MODULE:NAME"
        )
    app = f"{module}:{name}"
    if draft.settings.get("APP", app) != app:
        return lost(
            f"one server serves one application, {draft.settings['APP']}: start another one for {app}"
        )
    draft.set("APP", app)
    return becomes(f"APP = {app}")


def _file(one: Directive, draft: Draft) -> Outcome:
    return _from_file(one.value.strip(), "", draft)


def _from_file(path: str, name: str, draft: Draft) -> Outcome:
    stem, extension = os.path.splitext(path)
    directory, bases = draft.last(*DIRECTORY), draft.all(*IMPORT_PATH)
    base = _base(path, [directory, *bases]) if path.startswith("/") else ""
    parts = (
        [part for part in os.path.relpath(stem, base or "/").split("/") if part != "."]
        if path.startswith("/")
        else []
    )
    if not path.startswith("/"):
        parts = [part for part in os.path.normpath(stem).split("/") if part != "."]
    elif not base:  # an absolute path without a directory around it: the package and the directory above it
        parts, base = parts[-2:], os.path.dirname(os.path.dirname(path))
        draft.add("PYTHONPATH_LIST", [base])
    if extension != ".py" or not all(_NAME.fullmatch(part) for part in parts) or not parts:
        return lost(
            f"{path} cannot be imported by a name: rename it, for example to wsgi.py, and set APP to MODULE:{CALLABLE}"
        )
    outcome = _app(".".join(parts), name, draft)
    where = f"; its directory is in PYTHONPATH: {base}" if base and base not in (directory, *bases) else ""
    return Outcome(outcome.verdict, outcome.text + where)


def _base(path: str, candidates: list[str]) -> str:
    """Return the longest of some directories that a file is in; "" if it is in none."""
    inside = [one.rstrip("/") for one in candidates if one and path.startswith(one.rstrip("/") + "/")]
    return max(inside, key=len, default="")


def _mount(one: Directive, draft: Draft) -> Outcome:
    mountpoint, equal, target = one.value.partition("=")
    if not equal:
        raise ValueNotUnderstoodError(f"{one.value!r} is not of the form MOUNTPOINT=APPLICATION")
    if "|" in mountpoint:
        return lost("one server serves one site: start one for each")
    module, colon, name = target.partition(":")
    is_file = not colon and module.endswith(".wsgi")
    outcome = _from_file(module, name, draft) if is_file else _app(module, name, draft)
    if mountpoint in ("", "/"):
        return outcome
    draft.snippet(
        f"nginx, for the application under {mountpoint}",
        f"location {mountpoint} {{\n    proxy_pass http://127.0.0.1:8000;\n    include /etc/nginx/proxy_params;\n"
        f"    proxy_set_header SCRIPT_NAME {mountpoint};\n}}",
    )
    return Outcome(
        outcome.verdict, f"{outcome.text}; nginx sends the prefix {mountpoint} as SCRIPT_NAME (see below)"
    )


def _callable(one: Directive, draft: Draft) -> Outcome:
    return becomes(f"the name in APP, {one.value}")


def _directory(one: Directive, draft: Draft) -> Outcome:
    draft.directory = one.value
    draft.set("CHDIR", one.value)
    return becomes(f"CHDIR = {one.value}")


def _import_path(one: Directive, draft: Draft) -> Outcome:
    if any(char in one.value for char in ",*?["):
        return lost("PYTHONPATH takes the names of directories, without a comma and without a pattern")
    draft.add("PYTHONPATH_LIST", [one.value])
    return becomes(f"PYTHONPATH = {one.value}")


def _environment(one: Directive, draft: Draft) -> Outcome:
    name, equal, value = one.value.partition("=")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ValueNotUnderstoodError(f"{one.value!r} is not of the form NAME=value")
    if not equal:
        return not_needed(f"{name} is removed from the environment; leave it out of the unit")
    draft.environ[name] = value
    more = ", the settings" if name == SETTINGS else ""
    return becomes(f"{name} in the environment{more}")


def _virtualenv(one: Directive, draft: Draft) -> Outcome:
    draft.python = os.path.join(one.value, "bin", "python")
    return becomes(f"the Python that starts the server, {draft.python}")


def _user(one: Directive, draft: Draft) -> Outcome:
    draft.user = one.value.strip()
    return becomes(f"USER = {draft.user}")


def _group(one: Directive, draft: Draft) -> Outcome:
    draft.group = one.value.strip()
    return becomes(f"GROUP = {draft.group}")


def _pid_file(one: Directive, draft: Draft) -> Outcome:
    draft.set("PIDFILE", one.value)
    return becomes(f"PIDFILE = {one.value}")


def _process_name(one: Directive, draft: Draft) -> Outcome:
    draft.set("PROC_NAME", one.value.strip())
    return becomes(f"PROC_NAME = {one.value.strip()}; it needs the package setproctitle")


def _autoreload(one: Directive, draft: Draft) -> Outcome:
    if not is_on(one.value):
        return not_needed("it is off")
    draft.set("RELOAD", True)
    return becomes("RELOAD = True; for development only")


def _plugins(one: Directive, draft: Draft) -> Outcome | None:
    foreign = [name for name in re.split(r"[,\s]+", one.value) if name and not _is_known(name)]
    return lost(f"the plugin {', '.join(foreign)} has no counterpart here") if foreign else None


def _is_known(plugin: str) -> bool:
    """Return whether this server does what a plugin does, or needs no replacement for it."""
    name = re.split(r"[:=/]", plugin)[-1].removesuffix("_plugin.so")
    return re.fullmatch(r"python[\d.]*|http|corerouter|0|gevent\d*|logfile|logsocket|syslog|rsyslog|cheaper_\w+|stats_\w+"
                        r"|spooler|cache|signal|router_\w+|transformation_\w+|ping|symcall|rpc|carbon|nagios|zergpool|greenlet|asyncio", name) is not None  # fmt: skip


DIRECTORY = ("chdir", "chdir2", "force-cwd")
IMPORT_PATH = ("pythonpath", "python-path", "pp")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("module", "wsgi"), _module),
    **dict.fromkeys(("wsgi-file", "file"), _file),
    **dict.fromkeys(("mount", "worker-mount"), _mount),
    **dict.fromkeys(DIRECTORY, _directory),
    **dict.fromkeys(IMPORT_PATH, _import_path),
    **dict.fromkeys(("home", "virtualenv", "venv", "pyhome"), _virtualenv),
    **dict.fromkeys(("uid", "immediate-uid"), _user),
    **dict.fromkeys(("gid", "immediate-gid"), _group),
    **dict.fromkeys(("pidfile", "pidfile2", "safe-pidfile", "safe-pidfile2"), _pid_file),
    **dict.fromkeys(
        ("procname", "procname-master", "procname-prefix", "procname-prefix-spaced"), _process_name
    ),
    **dict.fromkeys(
        ("py-autoreload", "py-auto-reload", "python-autoreload", "python-auto-reload"), _autoreload
    ),
    **dict.fromkeys(("plugin", "plugins", "need-plugin", "need-plugins"), _plugins),
    "callable": _callable,
    "env": _environment,
}
