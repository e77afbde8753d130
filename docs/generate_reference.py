"""Write the pages of the reference that follow from the code. Runs by hand: ``python docs/generate_reference.py``.

tests/unit/test_docs.py fails when one is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django_workerguard.config import units
from django_workerguard.config.options import OPTIONS, Option
from django_workerguard.report.metrics import Family, families, families_of_pools
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.server.configuration import REFUSED

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

HEAD = """\
<!-- Written by docs/generate_reference.py. Change the definitions in django_workerguard/config/options.py instead. -->

# Options

Every option can be set in several places. The strongest comes first:

1. on the command line of `serve_guarded` or `python -m django_workerguard serve`,
2. in the environment,
3. in `gunicorn.conf.py`, as `WORKERGUARD = {…}` there,
4. in the Django settings, as `WORKERGUARD = {…}`,
5. the default.

`manage.py serve_guarded --print-config` prints every value and where it was set. A wrong value ends the start with one
line that names the option and the place, and exit code 2.

"""

SERVER = """\
## gunicorn's options

These are options of the two commands: `[addrport]` (as runserver has it), `--bind`, `--workers`, `--worker-class`,
`--threads`, `--timeout`, `--config`. Every other option of gunicorn goes after `--`:

```console
$ python manage.py serve_guarded 8000 -- --max-requests 1000
```

All of gunicorn's settings can stand in `WORKERGUARD` in upper case (`"WORKERS": 4`), in the environment
(`WORKERGUARD_WORKERS`), in `GUNICORN_CMD_ARGS` and in `gunicorn.conf.py`. The order, the strongest first: the command line,
what stands after `--` there, `WORKERGUARD_…` in the environment, `GUNICORN_CMD_ARGS`, `gunicorn.conf.py`, `WORKERGUARD` in
the settings.

Two defaults differ from gunicorn's: `http_parser` is `python`, and the control socket is off.

These cannot be used:

"""


METRICS_HEAD = """\
<!-- Written by docs/generate_reference.py. Change django_workerguard/report/metrics.py instead. -->

# Metrics

What [the metrics URL and the collector](../howto/prometheus.md) tell. Labels are slots, never pids, and counters go on when a
worker is recycled; all begin at 0 with a new arbiter (a restart, SIGUSR2). Counters are stored as `…_total`, the histogram as
`…_bucket`, `…_count` and `…_sum`.

| metric | kind | labels | |
|---|---|---|---|
"""
METRICS_POOLS = """
## Celery's pools

Those of the project's guarded [pools](../howto/celery.md) on the same host, each with the label `pool`, the pool's name.

| metric | kind | labels | |
|---|---|---|---|
"""
METRICS_LABELS = """
## What the labels say

`state` is that of [a slot](status.md#a-slot). `code` and `severity` are those of [a finding](status.md#a-finding).

`cause` of `workerguard_load_failures_total`: `exception` (it will not pass by itself), `transient` (it may: an OSError, a database
that is away), `memory` (MemoryError), `out-of-memory` (the kernel's OOM killer), `timeout` (`load-timeout`), `died` (it ended
without a word).

`cause` of `workerguard_exits_total`: `asked` (it left when it was told to), `unasked` (it left by itself, with exit code 0),
`load-failed`, `exit-code` (any other), `signal`, `sigkill` (sender unknown), `out-of-memory`, `timeout` (no sign of life),
`worker-reload-mercy` (it did not leave in time), `evil-reload-on-rss`, `other`.

`rule` of `workerguard_recycles_total`: `reload`, `by-hand`, `other`, and the options of the same names.
"""


def metrics() -> str:
    """Return the page of the metrics."""
    board = Board.create(Layout(seats=1, slots=1), None)
    board.words[Header.TARGET] = board.words[Header.BACKLOG] = 1
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
    refused = "".join(f"- `{name}`: {why}\n" for name, why in REFUSED.items())
    return f"{HEAD}{sections}\n{SERVER}{refused}"


def _section(option: Option) -> Iterator[str]:
    yield f"## {option.name}\n"
    yield f"{option.help}\n"
    yield f"- command line: `{option.flag} {option.metavar}`"
    yield f'- settings and gunicorn.conf.py: `WORKERGUARD["{option.key}"]`'
    yield f"- environment: `{option.env}`"
    if "Mirrors uWSGI's" in option.help:
        yield f"- uWSGI: `{option.name}`"
    yield f"- value: {UNITS.get(option.parse) or _described(option)}"
    yield f"- default: {_default(option.default)}{'; never printed' if option.secret else ''}\n"


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


def _default(value: object) -> str:
    match value:
        case None | "" | ():
            return "none"
        case bool():
            return "on" if value else "off"
        case tuple():
            return f"`{','.join(map(str, value))}`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


PAGES = {"options.md": options, "metrics.md": metrics}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
