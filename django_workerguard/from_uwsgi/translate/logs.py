"""Rules for the logs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from django_workerguard.from_uwsgi.directive import Directive
from django_workerguard.from_uwsgi.translate.draft import (
    Draft,
    Outcome,
    becomes,
    elsewhere,
    is_on,
    lost,
    not_needed,
)
from django_workerguard.from_uwsgi.translate.workers import Rule

_FIELD = re.compile(r"%\(([^()]*)\)")
# uWSGI's fields, and gunicorn's for the same
FIELDS = {
    "addr": "%(h)s",
    "user": "%(u)s",
    "method": "%(m)s",
    "uri": "%({raw_uri}e)s",
    "proto": "%(H)s",
    "status": "%(s)s",
    "rsize": "%(B)s",
    "size": "%(B)s",
    "uagent": "%(a)s",
    "referer": "%(f)s",
    "host": "%({host}i)s",
    "pid": "%(p)s",
    "msecs": "%(M)s",
    "micros": "%(D)s",
    "tmsecs": "%(M)s",
    "tmicros": "%(D)s",
    "secs": "%(L)s",
    "time": "%(t)s",
    "ctime": "%(t)s",
    "ltime": "%(t)s",
    "ftime": "%(t)s",
    "iso8601": "%(t)s",
    "cl": "%({content-length}i)s",
}
ROTATION = """\
/var/log/mysite/*.log {
    daily
    rotate 14
    compress
    delaycompress
    missingok
    postrotate
        systemctl kill --kill-whom=main --signal=USR1 mysite.service
    endscript
}"""


def _format(one: Directive, draft: Draft) -> Outcome:
    without: list[str] = []

    def field(found: re.Match[str]) -> str:
        name = found[1]
        if name.startswith("var."):
            variable = name.removeprefix("var.")
            if variable.startswith("HTTP_"):
                return "%({" + variable.removeprefix("HTTP_").lower().replace("_", "-") + "}i)s"
            return "%({" + variable.lower() + "}e)s"
        if name not in FIELDS:
            without.append(name)
            return "-"
        return FIELDS[name]

    text = "".join(
        part if at % 2 else part.replace("%", "%%")
        for at, part in enumerate(re.split(r"(%\(\{?[\w-]+\}?[a-zA-Z]?\)s)", _FIELD.sub(field, one.value)))
    )
    forwarded = draft.all("log-x-forwarded-for")
    if forwarded and is_on(forwarded[-1]):
        text = text.replace("%(h)s", "%({x-forwarded-for}i)s")
    draft.set("ACCESS_LOG_FORMAT", text.replace("[%(t)s]", "%(t)s"))  # gunicorn's time has brackets
    if without:
        return lost(
            f"the access log has no {', '.join(dict.fromkeys(without))}; the other fields are in ACCESS_LOG_FORMAT"
        )
    return becomes("ACCESS_LOG_FORMAT")


def _forwarded(one: Directive, draft: Draft) -> Outcome:
    if not is_on(one.value):
        return not_needed("it is off")
    if not draft.all("log-format", "logformat"):
        draft.set(
            "ACCESS_LOG_FORMAT", '%({x-forwarded-for}i)s - %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
        )
    return becomes("ACCESS_LOG_FORMAT, with the header in place of the address")


def _file(one: Directive, draft: Draft) -> Outcome:
    return _write_to(one.value, draft, both=True)


def _write_to(path: str, draft: Draft, *, both: bool) -> Outcome:
    if re.fullmatch(r"[\w.-]*:\d+", path):
        return lost("the log cannot be sent by UDP: use SYSLOG, or a log collector")
    draft.set("ERRORLOG", path)
    if both:
        draft.access_log = path
    return becomes(f"ERRORLOG = {path}" + (f", ACCESSLOG = {path}" if both else ""))


def _daemonize(one: Directive, draft: Draft) -> Outcome:
    outcome = _write_to(one.value, draft, both=True) if one.value.startswith("/") else None
    draft.note("The server stays in the foreground: systemd or a container keeps it running.")
    text = "systemd or a container keeps the server running; use --format systemd"
    return elsewhere(f"{text}; the logs: {outcome.text}" if outcome else text)


def _disable(one: Directive, draft: Draft) -> Outcome:
    if not is_on(one.value):
        return not_needed("it is off")
    draft.access_log = ""
    return becomes("no ACCESSLOG, which is the default")


def _logger(one: Directive, draft: Draft) -> Outcome:
    of_requests = one.key != "logger"
    spec = one.value.split(" ")[-1] if re.match(r"[\w-]+ \w+:", one.value) else one.value
    kind, _, target = spec.partition(":")
    match kind:
        case "file":
            path = dict(part.partition("=")[::2] for part in target.split(",")).get("logfile", target)
        case "stdio":
            path = "-"
        case "syslog" | "rsyslog" if not of_requests:
            return _syslog_to(kind, target, draft)
        case _:
            return lost(
                f"the logger {kind!r} is not there: ERRORLOG and ACCESSLOG name files, SYSLOG sends to syslog"
            )
    if of_requests:
        draft.access_log = path
        return becomes(f"ACCESSLOG = {path}")
    return _write_to(path, draft, both=not draft.all("req-logger", "logger-req"))


def _syslog_to(kind: str, target: str, draft: Draft) -> Outcome:
    parts = target.split(",")
    address, name = (parts[0], parts[1] if len(parts) > 1 else "") if kind == "rsyslog" else ("", parts[0])
    draft.set("SYSLOG", True)
    draft.set(
        "SYSLOG_ADDR",
        f"udp://{address if ':' in address else f'{address}:514'}" if address else "unix:///dev/log",
    )
    if name:
        draft.set("SYSLOG_PREFIX", name)
    return becomes(f"SYSLOG = True, SYSLOG_ADDR = {draft.settings['SYSLOG_ADDR']}")


def _syslog(one: Directive, draft: Draft) -> Outcome:
    return _syslog_to("syslog", "" if one.value in ("", "1", "true") else one.value, draft)


def _rotation(one: Directive, draft: Draft) -> Outcome:
    draft.snippet("/etc/logrotate.d/mysite", ROTATION)
    return elsewhere("logrotate, with SIGUSR1 to the server (see below)")


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("log-format", "logformat"), _format),
    **dict.fromkeys(("logto", "logto2"), _file),
    **dict.fromkeys(("daemonize", "daemonize2"), _daemonize),
    **dict.fromkeys(("logger", "req-logger", "logger-req"), _logger),
    **dict.fromkeys(("log-maxsize", "log-backupname", "touch-logrotate", "touch-logreopen"), _rotation),
    "log-x-forwarded-for": _forwarded,
    "disable-logging": _disable,
    "log-syslog": _syslog,
}
