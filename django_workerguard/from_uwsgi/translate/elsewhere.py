"""Rules for what another program does: nginx, systemd, WhiteNoise, Celery. Pure."""

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
    elsewhere,
    key_values,
    lost,
    not_needed,
    number,
)
from django_workerguard.from_uwsgi.translate.workers import Rule

WHITENOISE = """\
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    # … the others
]"""
CELERY = """\
from celery import shared_task


@shared_task
def task():  # what the spooler, the mule or the timer does today
    ..."""
RELOAD_SERVICE = """\
# mysite-reload.path
[Path]
{lines}
Unit=mysite-reload.service

[Install]
WantedBy=multi-user.target

# mysite-reload.service
[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl reload mysite.service"""
DAEMON = """\
[Unit]
Description={name} of mysite
PartOf=mysite.service
After=network.target

[Service]
{head}ExecStart={command}
Restart=always

[Install]
WantedBy=multi-user.target"""


def _static_map(one: Directive, draft: Draft) -> Outcome:
    prefix, equal, directory = one.value.partition("=")
    if not equal:
        raise ValueNotUnderstoodError(f"{one.value!r} is not of the form URL=DIRECTORY")
    url = "/" + prefix.strip("/")
    path = directory.rstrip("/") + (url if one.key == "static-map2" else "")
    if os.path.splitext(url)[1]:  # a file such as /favicon.ico
        draft.snippet(f"nginx, for {url}", f"location = {url} {{\n    alias {path};\n}}")
    else:
        draft.snippet(f"nginx, for {url}/", f"location {url.rstrip('/')}/ {{\n    alias {path}/;\n}}")
        draft.snippet(
            "settings.py, if there is no nginx: WhiteNoise serves STATIC_ROOT under STATIC_URL", WHITENOISE
        )
    return elsewhere(f"nginx or WhiteNoise serves {url} (see below)")


def _check_static(one: Directive, draft: Draft) -> Outcome:
    text = f"location / {{\n    root {one.value};\n    try_files $uri @django;\n}}"
    draft.snippet(f"nginx, for the files in {one.value}", text)
    return elsewhere("nginx looks for a file before it asks the application (see below)")


def _cron(one: Directive, draft: Draft) -> Outcome:
    fields = one.value.split(None, 5)
    options: dict[str, str] = {}
    if one.key == "cron2":
        settings, _, command = one.value.partition(" ")
        options = key_values(settings) if "=" in settings else {}
        command = command if options else one.value
        names = ("minute", "hour", "day", "month", "week")
        fields = [*(options.get(name, "-1") for name in names), command.strip()]
    if len(fields) != 6 or not fields[5]:
        raise ValueNotUnderstoodError(f"{one.value!r} is not five times and a command")
    times = " ".join(_time(field) for field in fields[:5])
    user = draft.last("uid", "immediate-uid") or "mysite"
    draft.snippet("/etc/cron.d/mysite; or Celery beat, or systemd timers", f"{times} {user} {fields[5]}")
    return elsewhere(f"a crontab line, {times} (see below), a systemd timer or Celery beat")


def _time(field: str) -> str:
    """Turn uWSGI's -1 (each) and -N (every N) into those of a crontab."""
    if not re.fullmatch(r"-?\d{1,4}", field):
        raise ValueNotUnderstoodError(f"{field!r} is not a time of cron")
    value = int(field)
    return "*" if value == -1 else f"*/{-value}" if value < 0 else str(value)


def _daemon(one: Directive, draft: Draft) -> Outcome:
    text = one.value
    if one.key == "attach-daemon2":
        given = dict(re.findall(r"\b(\w+)=((?:[^,]|,(?!\w+=))*)", text))
        text = given.get("cmd") or given.get("exec") or given.get("command") or ""
    elif "smart" in one.key:
        text = text.partition(" ")[2]  # the pid file stands in front
    if not text.strip():
        raise ValueNotUnderstoodError(f"{one.value!r} names no command")
    name = re.sub(r"\W+", "-", os.path.basename(text.split()[0])) or "daemon"
    draft.snippet(f"mysite-{name}.service, a systemd service", _service(name, text, draft))
    return elsewhere(f"a systemd service of its own for {name} (see below)")


def _service(name: str, command: str, draft: Draft) -> str:
    user, directory = draft.last("uid", "immediate-uid"), draft.last("chdir", "chdir2")
    head = (f"User={user}\n" if user else "") + (f"WorkingDirectory={directory}\n" if directory else "")
    return DAEMON.format(name=name, head=head, command=command.replace("%", "%%"))


def _mule(one: Directive, draft: Draft) -> Outcome:
    script = one.value.partition(":")[0]
    if one.key == "mule" and script.endswith(".py"):
        name = os.path.basename(script).removesuffix(".py")
        draft.snippet(f"mysite-{name}.service, a systemd service", _service(name, f"python {script}", draft))
        return elsewhere(f"a systemd service of its own for {script} (see below), or Celery")
    if one.key == "mules" and not number(one.value):
        return not_needed("there are none")
    return _celery(one, draft)


def _celery(one: Directive, draft: Draft) -> Outcome:
    draft.snippet(
        "tasks.py of an application: Celery in place of the spooler, of mules and of timers", CELERY
    )
    return elsewhere("Celery (see below), whose pool this package guards too")


def _touch(one: Directive, draft: Draft) -> Outcome:
    path = one.value.strip()
    if not path or "," in path:
        raise ValueNotUnderstoodError(f"{one.value!r} is empty or has a comma")
    draft.add("TOUCH_RELOAD", [path])
    return becomes(f"TOUCH_RELOAD = {path}; workerguard reload --wait also says whether it succeeded")


def _watch(one: Directive, draft: Draft) -> Outcome:
    paths = [value for value in draft.all(*WATCH) if value.startswith("/")]
    lines = "\n".join(f"PathModified={path}" for path in dict.fromkeys(paths or [one.value]))
    draft.snippet(
        "mysite-reload.path and mysite-reload.service, systemd units", RELOAD_SERVICE.format(lines=lines)
    )
    return elsewhere("workerguard reload --wait in the deployment, or a systemd path unit (see below)")


def _body_limit(one: Directive, draft: Draft) -> Outcome:
    size = number(one.value)
    draft.snippet("nginx, for the size of a request", f"client_max_body_size {size};")
    return elsewhere(
        f"client_max_body_size {size} in nginx; Django's DATA_UPLOAD_MAX_MEMORY_SIZE without a proxy"
    )


def _header(one: Directive, draft: Draft) -> Outcome:
    name, colon, value = one.value.partition(":")
    if not colon:
        raise ValueNotUnderstoodError(f"{one.value!r} is not of the form NAME: value")
    escaped = value.strip().replace("\\", "\\\\").replace('"', '\\"')
    draft.snippet("nginx, for the headers of answers", f'add_header {name.strip()} "{escaped}" always;')
    return elsewhere("add_header in nginx (see below), or a middleware in Django")


def _in_unit(name: str, *, program: bool = False) -> Rule:
    def rule(one: Directive, draft: Draft) -> Outcome:
        value = one.value.strip().replace("%", "%%")
        if not value or "\n" in value:
            raise ValueNotUnderstoodError(f"{one.value!r} is empty or has several lines")
        draft.unit.append(f"{name}=/bin/sh -c {_quoted(value)}" if program else f"{name}={value}")
        return elsewhere(f"{name}= of the systemd unit (see below)")

    return rule


def _quoted(text: str) -> str:
    """Quote a word as systemd reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _memory_limit(one: Directive, draft: Draft) -> Outcome:
    draft.unit.append(f"LimitAS={number(one.value)}M")
    return elsewhere("LimitAS= of the systemd unit (see below)")


def _hook(name: str) -> Rule:
    run = _in_unit(name, program=True)

    def rule(one: Directive, draft: Draft) -> Outcome | None:
        kind, _, argument = one.value.partition(":")
        if kind == "exec":
            return run(Directive(one.place, one.key, argument), draft)
        if kind in (
            "mkdir",
            "create",
            "touch",
            "unlink",
            "chmod",
            "chown",
            "rmdir",
            "write",
            "writefifo",
            "rename",
        ):
            return elsewhere(f"{name}= of the systemd unit: {one.value}")
        return lost(f"the action {kind!r} of a hook has no counterpart here")

    return rule


def _master_start(one: Directive, draft: Draft) -> Outcome | None:
    if one.value.startswith("unix_signal:"):
        return not_needed("SIGTERM stops the server gracefully, SIGHUP reloads it")
    return None


def _vassals(one: Directive, draft: Draft) -> Outcome:
    draft.snippet(
        "mysite@.service, a systemd unit for each vassal (systemctl enable --now mysite@NAME)",
        "[Service]\nType=notify\nEnvironmentFile=/etc/workerguard/%i.env\nRuntimeDirectory=%i\n"
        "ExecStart=/srv/%i/venv/bin/python -m django_workerguard serve\n"
        "ExecReload=/srv/%i/venv/bin/workerguard reload --wait\nRestart=always\nRestartPreventExitStatus=2\n\n"
        "[Install]\nWantedBy=multi-user.target",
    )
    return elsewhere(
        f"one systemd unit for each vassal of {one.value} (see below): translate each file with --format env"
    )


TOUCH = ("touch-reload", "touch-workers-reload", "touch-chain-reload")
WATCH = ("fs-reload", "fs-brutal-reload")
BEFORE = ("asap", "pre-jail", "post-jail", "in-jail", "as-root", "as-user", "pre-app")
DAEMONS = (
    "attach-daemon",
    "attach-control-daemon",
    "smart-attach-daemon",
    "smart-attach-daemon2",
    "attach-daemon2",
)
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("static-map", "static-map2"), _static_map),
    **dict.fromkeys(("check-static", "static-check"), _check_static),
    **dict.fromkeys(("cron", "cron2", "unique-cron"), _cron),
    **dict.fromkeys(DAEMONS, _daemon),
    **dict.fromkeys(("mule", "mules"), _mule),
    **dict.fromkeys(("spooler", "spooler-external"), _celery),
    **dict.fromkeys(TOUCH, _touch),
    **dict.fromkeys(WATCH, _watch),
    **{f"exec-{when}": _in_unit("ExecStartPre", program=True) for when in BEFORE},
    **{f"hook-{when}": _hook("ExecStartPre") for when in BEFORE},
    "exec-as-user-atexit": _in_unit("ExecStopPost", program=True),
    "hook-as-user-atexit": _hook("ExecStopPost"),
    "hook-master-start": _master_start,
    "limit-post": _body_limit,
    "add-header": _header,
    "emperor": _vassals,
    "umask": _in_unit("UMask"),
    "unenv": _in_unit("UnsetEnvironment"),
    "add-gid": _in_unit("SupplementaryGroups"),
    "chroot": _in_unit("RootDirectory"),
    "limit-as": _memory_limit,
    "limit-nproc": _in_unit("LimitNPROC"),
    "max-fd": _in_unit("LimitNOFILE"),
    "prio": _in_unit("Nice"),
}
