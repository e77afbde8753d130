"""The translation as a whole: each directive by its rule or by the table, then what follows from all of them. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django_workerguard.config.redact import HIDDEN, SUBSTITUTE, redact
from django_workerguard.config.text import plain
from django_workerguard.from_uwsgi.directive import PLACEHOLDERS, Directive, Place, State
from django_workerguard.from_uwsgi.table import Table, Verdict
from django_workerguard.from_uwsgi.translate import addresses, application, elsewhere, logs, workers
from django_workerguard.from_uwsgi.translate.application import SETTINGS
from django_workerguard.from_uwsgi.translate.draft import (
    Draft,
    Outcome,
    Row,
    Snippet,
    ValueNotUnderstoodError,
    is_on,
    not_needed,
    unknown,
)
from django_workerguard.from_uwsgi.translate.workers import Rule
from django_workerguard.values import value_class

RULES: Mapping[str, Rule] = {
    **workers.RULES,
    **addresses.RULES,
    **application.RULES,
    **logs.RULES,
    **elsewhere.RULES,
}
# options in whose values %(…) stands for something of the request
WITH_FIELDS = ("log", "route", "final-route", "error-route", "response-route", "metric", "alarm")
DEFAULT_BIND = "127.0.0.1:8000"
WORST = tuple(Verdict)
INCOMPLETE = frozenset({Verdict.LOST, Verdict.UNKNOWN})
GRACE = 30  # seconds that a sync worker has beyond request-timeout before gunicorn's timeout ends it
MOST_HINTS, LONGEST_KEY = 100, 64
NAMING = frozenset({"env", *PLACEHOLDERS})  # options whose value is NAME=VALUE
UNIT = "systemd, lines for [Service] of the unit"


@value_class
class ReportLine:
    """What becomes of one line of the input."""

    place: Place
    text: str
    verdict: Verdict
    explanation: str


@value_class
class Translation:
    """The result: settings in upper case, and what else the server needs."""

    settings: Mapping[str, Any]
    environ: Mapping[str, str]
    python: str
    directory: str
    user: str
    group: str
    unit: tuple[str, ...]
    report: tuple[ReportLine, ...]
    snippets: tuple[Snippet, ...]
    notes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is lost or unknown."""
        return not any(line.verdict in INCOMPLETE for line in self.report)


# the settings module that a WSGI module names, by its name and the directories of the import path; "": not known
SettingsOf = Callable[[str, Sequence[str]], str]


def translate(
    directives: Iterable[Directive], table: Table, settings_of: SettingsOf = lambda module, directories: ""
) -> Translation:
    """Translate what the reader has read. It never raises: what is not understood is unknown in the report."""
    draft = Draft(tuple(directives), table)
    for one in draft.directives:
        before = dict(draft.settings)
        outcome = _outcome(one, draft)
        changed = frozenset(key for key, value in draft.settings.items() if before.get(key) != value)
        draft.rows.append(Row(one, outcome.verdict, outcome.text, changed))
    _conclude(draft)
    _conclude_settings_module(draft, settings_of)
    return Translation(
        settings=draft.settings,
        environ=draft.environ,
        python=draft.python or "python",
        directory=draft.directory,
        user=draft.user,
        group=draft.group,
        unit=tuple(dict.fromkeys(draft.unit)),
        report=tuple(_lines(draft.rows)),
        snippets=tuple(draft.snippets),
        notes=tuple(draft.notes),
    )


def _outcome(one: Directive, draft: Draft) -> Outcome:
    if one.state in (State.SKIPPED, State.UNMET):
        return not_needed(one.remark)
    if one.state is State.UNKNOWN:
        return unknown(one.remark)
    row = draft.table.rows.get(one.key)
    if row is None:
        return _not_an_option(one, draft)
    if "%(" in one.value and not one.key.startswith(WITH_FIELDS) and row.verdict is not Verdict.NOT_NEEDED:
        return unknown("uWSGI does not put in this %(…): it is set nowhere, or only after its use")
    if "$(" in one.value and row.verdict is not Verdict.NOT_NEEDED:
        return unknown("a variable in $(…) is not in the environment: give it with --env NAME=VALUE")
    if any(char in one.value for char in "\n\r\0"):
        return unknown("its value has several lines, or a byte 0")
    if one.key in draft.table.flags and not is_on(one.value) and one.key not in RULES:
        return not_needed("it is off")
    try:
        outcome = RULES[one.key](one, draft) if one.key in RULES else None
    except ValueNotUnderstoodError as error:
        return unknown(str(error))
    if outcome is None:
        outcome = Outcome(
            row.verdict, f"{row.becomes}: {row.reason}".strip(": ") if row.becomes else row.reason
        )
    return outcome


def _not_an_option(one: Directive, draft: Draft) -> Outcome:
    if one.placeholder:
        return not_needed("it is a placeholder; its value has been put in where it is used")
    near = _nearest(one.key, draft)
    hint = (
        f"; did you mean {near[0]}?"
        if near
        else "; if the site reads it from uwsgi.opt, put it into the settings"
    )
    return unknown(f"uWSGI 2.0.31 has no such option, and ignores it{hint}")


def _nearest(key: str, draft: Draft) -> list[str]:
    """Return the option that a misspelt one resembles. It is costly, so only the first ones get this hint."""
    draft.hints += 1
    if draft.hints > MOST_HINTS:
        return []
    return difflib.get_close_matches(key[:LONGEST_KEY], draft.table.rows, n=1, cutoff=0.8)


def _conclude(draft: Draft) -> None:
    """Add what follows from several options, and from uWSGI's defaults."""
    _conclude_addresses(draft)
    _conclude_class(draft)
    _conclude_load(draft)
    if paths := draft.settings.pop("PYTHONPATH_LIST", None):
        draft.settings["PYTHONPATH"] = ",".join(paths)
    if draft.user:
        draft.settings["USER"] = draft.user
    if draft.group:
        draft.settings["GROUP"] = draft.group
    if draft.access_log:
        draft.settings["ACCESSLOG"] = draft.access_log
        if "ACCESS_LOG_FORMAT" not in draft.settings:
            draft.settings["LOG_FORMAT"] = "uwsgi"
        if draft.access_log == "-" and not draft.all("req-logger", "logger-req"):
            draft.note(
                "uWSGI writes a line for each request, so ACCESSLOG = - is set, and LOG_FORMAT = uwsgi, with which the lines "
                "look the same. Remove both if you do not want them."
            )
    if draft.unit:
        draft.snippet(UNIT, "\n".join(dict.fromkeys(draft.unit)))
    if any(one.state is State.UNMET for one in draft.directives):
        draft.note(
            "Some lines are in blocks whose condition is not met here: run the command where uWSGI runs, or set their "
            "variables with --env NAME=VALUE."
        )
    if draft.settings.get("RELOAD"):
        draft.note("RELOAD is for development: remove it where the site serves visitors.")


def _conclude_addresses(draft: Draft) -> None:
    binds = list(dict.fromkeys(address.bind for address in draft.addresses))
    protocols = {address.protocol for address in draft.addresses}
    if binds:
        draft.settings["BIND"] = binds
    elif not draft.all("shared-socket", "chown-socket"):
        draft.note(
            f"No address is named in these files: set BIND, otherwise the server listens at {DEFAULT_BIND}."
        )
    if protocols == {"uwsgi"}:
        draft.settings["PROTOCOL"] = "uwsgi"
        draft.note(
            "PROTOCOL = uwsgi serves nginx's uwsgi_pass. With proxy_pass in nginx the server speaks HTTP: remove PROTOCOL."
        )
        if any(not bind.startswith("unix:") for bind in binds):
            draft.note(
                "UWSGI_ALLOW_IPS names the hosts from which the uwsgi protocol is accepted; by default only this one."
            )
    if "https" in protocols and any(address.protocol != "https" for address in draft.addresses):
        _lose_plain_addresses(draft)


def _lose_plain_addresses(draft: Draft) -> None:
    """A server of gunicorn speaks TLS on all addresses or on none."""
    secure = [address.bind for address in draft.addresses if address.protocol == "https"]
    draft.settings["BIND"] = list(dict.fromkeys(secure))
    for row in draft.rows:
        if (
            row.directive.key in (*addresses.HTTP, "socket", "uwsgi-socket")
            and "CERTFILE" not in row.text
            and "BIND" in row.text
        ):
            row.verdict = Verdict.LOST
            row.text = "a server with a certificate speaks TLS at every address: let nginx speak HTTP, or start a second server"


def _conclude_class(draft: Draft) -> None:
    """A sync worker is ended by gunicorn's timeout, uWSGI's by harakiri only."""
    if draft.settings.get("WORKER_CLASS") == "gevent":
        draft.settings.pop("THREADS", None)
    if "WORKER_CLASS" in draft.settings:
        return
    limit = draft.settings.get("REQUEST_TIMEOUT", 0)
    draft.settings["TIMEOUT"] = limit + GRACE if limit else 0
    draft.note(
        f"TIMEOUT = {draft.settings['TIMEOUT']}: gunicorn's own limit for a sync worker (30 s by default) must not end requests "
        + (
            "before REQUEST_TIMEOUT does."
            if limit
            else "that uWSGI would not end. REQUEST_TIMEOUT is a better limit."
        )
    )


def _conclude_settings_module(draft: Draft, settings_of: SettingsOf) -> None:
    """Name the settings: uWSGI leaves that to the WSGI module, but the server reads them before it loads the application."""
    if SETTINGS in draft.environ or not draft.directives:
        return
    module = str(draft.settings.get("APP", "")).partition(":")[0]
    paths = [draft.directory, *str(draft.settings.get("PYTHONPATH", "")).split(",")]
    found = settings_of(module, [path for path in paths if path]) if module else ""
    package, _, last = module.rpartition(".")
    if found:
        draft.environ[SETTINGS] = found
        draft.note(f"{SETTINGS} = {found} is what the module {module} sets.")
    elif package and last == "wsgi":
        draft.environ[SETTINGS] = f"{package}.settings"
        draft.note(
            f"{SETTINGS} = {package}.settings is a guess from the name of the module {module}: check it."
        )
    else:
        draft.note(
            f"No settings module is named in these files: set {SETTINGS}, or start with manage.py serve_guarded."
        )


def _conclude_load(draft: Draft) -> None:
    if draft.lazy or not draft.directives:
        return
    draft.settings["LOAD"] = "auto"
    draft.note(
        "lazy-apps is not set, so LOAD = auto: the workers are forked from one process that has loaded the application, as "
        "under uWSGI. If the application is not fit for that, each worker loads it."
    )
    if "RELOAD_ON_RSS" in draft.settings:
        draft.note(
            "RELOAD_ON_RSS counts only what a worker does not share; uWSGI counts all of it: choose a lower value."
        )


def _lines(rows: list[Row]) -> Iterable[ReportLine]:
    """Join the directives of one line of the input: a loop makes several of it."""
    by_place: dict[Place, list[Row]] = {}
    for row in _marked(rows):
        by_place.setdefault(row.place, []).append(row)
    for place, of_line in by_place.items():
        head = of_line[0].directive
        text = head.key if head.written == "" else f"{head.key} = {_masked(of_line[0])}"
        verdict = max((row.verdict for row in of_line), key=WORST.index)
        explanations = dict.fromkeys(row.text for row in of_line if row.text)
        yield ReportLine(place, plain(text), verdict, plain("; ".join(explanations)))


def _masked(row: Row) -> str:
    """Return the value as it is written, without secrets: of the environment, of placeholders, and in addresses."""
    one = row.directive
    name, equal, _ = one.written.partition("=")
    if one.key in NAMING and equal and HIDDEN.search(name):
        return f"{name}={SUBSTITUTE}"
    if HIDDEN.search(one.key) and (one.placeholder or row.verdict is Verdict.UNKNOWN):
        return SUBSTITUTE
    return redact(one.written, [])


def _marked(rows: list[Row]) -> list[Row]:
    """Say of a line that a later one overrules it."""
    last: dict[str, Row] = {}
    for row in rows:
        for key in row.sets:
            earlier = last.get(key)
            if earlier and earlier.place != row.place and key != "PYTHONPATH_LIST":
                earlier.text += f"; {row.place} sets {key} again"
            last[key] = row
    return rows
