"""Write the pages of the reference that follow from the code. Runs by hand: ``python docs/generate_reference.py``.

tests/unit/test_docs.py fails when one is stale.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django_workerguard.config import units
from django_workerguard.config.options import OPTIONS, Option
from django_workerguard.config.subjects import SUBJECTS
from django_workerguard.config.text import MEGABYTE
from django_workerguard.from_uwsgi.table import Row, Verdict, load_table
from django_workerguard.report.metrics import Family, families, families_of_pools
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout, Slot, SlotState
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.server.configuration.guarded_application import INSTEAD, REFUSED
from docs.settings_schema import settings_schema

REFERENCE = Path(__file__).resolve().parent / "reference"
UNITS: dict[Callable[[Any], Any], str] = {
    units.seconds: "seconds; `500ms`, `10m` and `6h` are understood",
    units.megabytes: "megabytes; `400M` and `1.5G` are understood",
    units.switch: "`true`, `1`, `yes`, `on`, and their opposites",
    units.words: "a list, or words separated by commas",
    units.dotted: "`module:callable`",
    units.url_path: "a path with a slash at both ends",
    units.text: "text",
    units.text_or_none: "text",
}

SUFFIXES: dict[Callable[[Any], Any], str] = {units.seconds: " s", units.megabytes: " MB"}
HEAD = """\
<!-- Written by docs/generate_reference.py. Change the definitions in django_workerguard/config/options.py instead. -->

# Options

Every option can be set in several places. If it is set in more than one, the first of these places wins:

1. on the command line of `serve_guarded` or `python -m django_workerguard serve`,
2. in the environment,
3. in `gunicorn.conf.py`, as `WORKERGUARD = {…}` there,
4. in the Django settings, as `WORKERGUARD = {…}`,
5. the default.

`manage.py serve_guarded --print-config` prints every value and where it was set. If a value is wrong, the server does
not start: it prints one line that names the option and the place, and exits with 2.

"""

SERVER = """\
## gunicorn's options

These are options of the two commands: `[addrport]` (as runserver has it), `--bind`, `--workers`, `--worker-class`,
`--threads`, `--timeout`, `--config`. Every other option of gunicorn goes after `--`:

```console
$ python manage.py serve_guarded 8000 -- --max-requests 1000
```

`--workers auto` has the server [choose the number](../howto/tuning.md#how-many-workers). gunicorn's own option after `--` and
`GUNICORN_CMD_ARGS` take only a number.

All of gunicorn's settings can also be set in `WORKERGUARD` in upper case (`"WORKERS": 4`), in the environment
(`WORKERGUARD_WORKERS`), in `GUNICORN_CMD_ARGS` and in `gunicorn.conf.py`. If a setting is set in more than one place,
the first of these places wins:

1. the command line,
2. the options after `--` on the command line,
3. `WORKERGUARD_…` in the environment,
4. `GUNICORN_CMD_ARGS`,
5. `gunicorn.conf.py`,
6. `WORKERGUARD` in the settings.

The path of `gunicorn.conf.py` is the exception: `config` can be set in the places 1 to 4 only, because the file is read
before `WORKERGUARD`. If none of them names a file, the server reads the one in the working directory, else the one in the
project's directory, if there is one.

Two defaults differ from gunicorn's: `http_parser` is `python`, and the control socket is off.

These settings of gunicorn cannot be used:

"""


METRICS_HEAD = """\
<!-- Written by docs/generate_reference.py. Change django_workerguard/report/metrics.py instead. -->

# Metrics

[The metrics URL and the collector](../howto/prometheus.md), [the monitor](../howto/monitor.md) and `workerguard metrics`
report these metrics. Labels are slots, never pids. Counters
continue when a worker is recycled. All counters begin at 0 with a new arbiter (a restart, SIGUSR2). Counters are stored
as `…_total`, the histogram as `…_bucket`, `…_count` and `…_sum`.

| metric | kind | labels | meaning |
|---|---|---|---|
"""
METRICS_POOLS = """
## Celery's pools

These are the metrics of the project's guarded [pools](../howto/celery.md) on the same host. Each has the label `pool`,
the pool's name.

| metric | kind | labels | meaning |
|---|---|---|---|
"""
METRICS_LABELS = """
## Values of the labels

`state` is the state of [a slot](status.md#a-slot). `code` and `severity` are those of [a finding](status.md#a-finding).

`cause` of `workerguard_load_failures_total`:

- `exception`: an exception that will not pass without a change
- `transient`: an exception that may pass (an OSError, a database that is away)
- `memory`: a MemoryError
- `out-of-memory`: a kill by the kernel's OOM killer
- `timeout`: `load-timeout`
- `died`: the process ended without a report

`cause` of `workerguard_exits_total` and of `workerguard_requests_lost_total`:

- `asked`: the worker left when it was asked to
- `unasked`: the worker left without being asked, with exit code 0
- `load-failed`: its load failed
- `exit-code`: any other exit code
- `signal`: a signal other than SIGKILL
- `sigkill`: SIGKILL, sender unknown
- `out-of-memory`: a kill by the kernel's OOM killer
- `timeout`: the worker gave no sign of life
- `worker-reload-mercy`: the worker did not leave in time
- `request-timeout`, `evil-reload-on-rss`: the options of these names
- `other`: any other cause

`rule` of `workerguard_recycles_total`: `reload`, `by-hand`, `other`, and the options of the same names.
"""


def metrics() -> str:
    """Return the page of the metrics."""
    board = Board.create(Layout(seats=1, slots=1), None)
    board.words[Header.TARGET] = board.words[Header.BACKLOG] = 1
    board.words[board.layout.slot(0) + Slot.STATE] = SlotState.READY  # a mold
    shot = snapshot(board)
    board.close()
    of_servers = "".join(_row(family, family.labels) for family in families(shot))
    of_pools = "".join(_row(family, ("pool", *family.labels)) for _, family in families_of_pools([shot]))
    return METRICS_HEAD + of_servers + METRICS_POOLS + of_pools + METRICS_LABELS


def _row(family: Family, labels: tuple[str, ...]) -> str:
    named = ", ".join(f"`{label}`" for label in labels)
    return f"| `{family.name}` | {family.kind} | {named} | {family.help} |\n"


def options() -> str:
    """Return the page of the options."""
    sections = "\n".join("\n".join(_section(option)) for option in OPTIONS.values())
    refused = "".join(_wrapped(f"- `{name}`: {_refusal(name)}", indent="  ") + "\n" for name in REFUSED)
    return f"{HEAD}{_summary()}\n{sections}\n{SERVER}{refused}"


def _refusal(name: str) -> str:
    return f"{REFUSED[name]}. {INSTEAD[name]}" if name in INSTEAD else REFUSED[name]


def _summary() -> str:
    """Return one table for each subject."""
    _require_one_subject_each()
    tables = (
        f"### {subject}\n\n| option | default | in short |\n|---|---|---|\n"
        + "".join(map(_summary_row, fields))
        for subject, fields in SUBJECTS.items()
    )
    return "## All options by subject\n\n" + "\n".join(tables)


def _require_one_subject_each() -> None:
    counts = Counter(field for fields in SUBJECTS.values() for field in fields)
    wrong = [f"{field} has no subject" for field in OPTIONS if not counts[field]]
    wrong += [f"{field} has {count} subjects" for field, count in counts.items() if count > 1]
    wrong += [f"{field} is no option" for field in counts if field not in OPTIONS]
    if wrong:
        raise ValueError(f"SUBJECTS in django_workerguard/config/subjects.py: {'; '.join(wrong)}")


def _summary_row(field: str) -> str:
    option = OPTIONS[field]
    unit = SUFFIXES.get(option.parse, "") if option.default else ""
    return f"| [`{option.name}`](#{option.name}) | {_default(_bare(option))}{unit} | {_in_short(option.help)} |\n"


def _in_short(help: str) -> str:
    """Return the first statement of a help text, without its values, what stands in parentheses, and its default."""
    statement = re.sub(r"(?<!×) \([^()]*\)", "", help.partition(": '")[0])
    return re.split(r"\. |; ", statement, maxsplit=1)[0].rstrip(".").replace("|", "\\|")


def _wrapped(text: str, *, indent: str = "") -> str:
    """Wrap a text as the other pages are wrapped. A minus stays in its line: in front of one it would begin a list."""
    kept = text.replace(" - ", "\N{NO-BREAK SPACE}-\N{NO-BREAK SPACE}")
    lines = textwrap.fill(kept, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def _section(option: Option) -> Iterator[str]:
    yield f"## {option.name}\n"
    yield f"{_wrapped(option.help)}\n"
    if option.uwsgi:
        yield f"Mirrors uWSGI's `{option.uwsgi}`.\n"
    yield f"- command line: `{option.flag} {option.metavar}`"
    yield f'- settings and gunicorn.conf.py: `WORKERGUARD["{option.key}"]`'
    yield f"- environment: `{option.env}`"
    yield f"- value: {UNITS.get(option.parse) or _described(option)}"
    yield f"- default: {_default(_bare(option))}{'; never printed' if option.secret else ''}\n"


def _described(option: Option) -> str:
    """Say what a parser without a fixed description takes, from how the option's help names it."""
    match option.metavar:
        case "N":
            return f"a whole number from {0 if _takes(option, 0) else 1} up"
        case "PATH,…":
            return "paths that begin with a slash: a list, or separated by commas"
        case "STEP,…":
            return "steps: a list, or separated by commas"
        case "SOURCE":
            return "`env:NAME`, `file:PATH` or `call:module:function`"
        case words:
            return ", ".join(f"`{word}`" for word in words.split("|"))


def _takes(option: Option, value: object) -> bool:
    try:
        option.parse(value)
    except ValueError:
        return False
    return True


def _bare(option: Option) -> object:
    """Return the default of an option in the unit of its bare numbers."""
    megabytes = option.parse is units.megabytes
    return option.default // MEGABYTE if megabytes else option.default


def _default(value: object) -> str:
    match value:
        case None:
            return "see the description"
        case "" | ():
            return "none"
        case bool():
            return "on" if value else "off"
        case tuple():
            return f"`{','.join(map(str, value))}`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


UWSGI_HEAD = """\
<!-- Written by docs/generate_reference.py. Change django_workerguard/from_uwsgi/options.toml instead. -->

# uWSGI's options

`workerguard from-uwsgi` [translates](../howto/from-uwsgi.md) these options. They are all that the sources of uWSGI
2.0.31 have.
The value of an option can change its verdict: a plugin of another language is lost, `plugins = python3` is not needed.
Names in upper case are keys of `WORKERGUARD`: [options](options.md), or settings of gunicorn.

"""
UWSGI_PARTS = {
    "core": "uWSGI itself",
    "python": "The plugin for Python",
    "http": "The HTTP router",
    "gevent": "gevent",
}
UWSGI_OTHERS = "Other plugins"


def uwsgi_options() -> str:
    """Return the page of uWSGI's options."""
    rows = load_table().rows.values()
    counts = Counter(row.verdict for row in rows)
    totals = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    head = _wrapped(f"{len(rows)} options: {totals}.") + "\n"
    parts = {title: [row for row in rows if row.plugin == part] for part, title in UWSGI_PARTS.items()}
    parts[UWSGI_OTHERS] = [row for row in rows if row.plugin not in UWSGI_PARTS]
    return UWSGI_HEAD + head + "".join(_uwsgi_part(title, of_part) for title, of_part in parts.items())


def _uwsgi_part(title: str, rows: list[Row]) -> str:
    return f"\n## {title}\n\n| option | verdict | here |\n|---|---|---|\n" + "".join(map(_uwsgi_row, rows))


def _uwsgi_row(row: Row) -> str:
    here = (
        ": ".join(part for part in (_keys(row.becomes), row.reason) if part) or "the option of the same name"
    )
    if row.verdict is Verdict.KEPT:
        here = f"[`{row.name}`](options.md#{row.name})" + (f": {row.reason}" if row.reason else "")
    return f"| `{row.name}` | {row.verdict} | {here} |\n"


def _keys(text: str) -> str:
    """Put the keys of WORKERGUARD into backticks."""
    return re.sub(r"\b[A-Z]{3,}(?:_[A-Z]+)*\b", lambda found: f"`{found[0]}`", text)


PAGES = {
    "options.md": options,
    "metrics.md": metrics,
    "uwsgi-options.md": uwsgi_options,
    "workerguard.schema.json": settings_schema,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
