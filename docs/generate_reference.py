"""Write docs/reference/options.md out of the definitions of the options. Runs by hand: ``python docs/generate_reference.py``.

tests/unit/test_docs.py fails when the file is stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django_workerguard.config import units
from django_workerguard.config.options import OPTIONS, Option
from django_workerguard.server.configuration import REFUSED

REFERENCE = Path(__file__).resolve().parent / "reference" / "options.md"
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


def reference() -> str:
    """Return the whole page."""
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


if __name__ == "__main__":
    REFERENCE.write_text(reference())
