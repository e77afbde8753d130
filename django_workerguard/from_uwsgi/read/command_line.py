"""uWSGI's reading of its command line: ``--name value``, ``--name=value``, ``-p 4``, and files. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django_workerguard.from_uwsgi.directive import Place, ReadError, Written
from django_workerguard.from_uwsgi.table import Argument, Table

COMMAND_LINE = "uWSGI's command line"
CONFIGURATIONS = (".ini", ".xml", ".yaml", ".yml", ".json", ".js")


def parse(arguments: Sequence[str], table: Table) -> Iterator[Written]:
    """Yield the options in their order, then the files that stand alone. Raises ReadError."""
    rest: list[tuple[Place, str]] = []
    numbered = [(Place(COMMAND_LINE, number), text) for number, text in enumerate(arguments, 1)]
    while numbered:
        place, text = numbered.pop(0)
        if text == "--":
            rest += numbered
            break
        if text.startswith("--"):
            yield _long(place, text[2:], numbered, table)
        elif text.startswith("-") and text != "-":
            yield from _short(place, text[1:], numbered, table)
        else:
            rest.append((place, text))
    for place, text in rest:
        yield from _alone(place, text)


def _long(place: Place, text: str, following: list[tuple[Place, str]], table: Table) -> Written:
    name, equal, value = text.partition("=")
    known = _known(place, name, table)
    if equal or table.argument(known) is not Argument.NEEDED:
        return Written(place, known, value)
    if not following:
        raise ReadError(place, f"--{name} needs a value")
    return Written(place, known, following.pop(0)[1])


def _known(place: Place, name: str, table: Table) -> str:
    """Return the full name of an option that may be abbreviated, as getopt_long does."""
    if name in table.rows:
        return name
    matches = [full for full in table.rows if name and full.startswith(name)]
    if len(matches) > 1:
        raise ReadError(
            place, f"--{name} could mean {', '.join(f'--{match}' for match in sorted(matches)[:5])}"
        )
    return matches[0] if matches else name


def _short(place: Place, text: str, following: list[tuple[Place, str]], table: Table) -> Iterator[Written]:
    while text:
        letter, text = text[0], text[1:]
        name = table.short.get(letter)
        if name is None:
            yield Written(place, f"-{letter}", text)
            return
        if table.argument(name) is Argument.NEEDED:
            if not text and not following:
                raise ReadError(place, f"-{letter} needs a value")
            yield Written(place, name, text or following.pop(0)[1])
            return
        if table.argument(name) is Argument.POSSIBLE:
            yield Written(place, name, text)
            return
        yield Written(place, name, "")


def _alone(place: Place, text: str) -> Iterator[Written]:
    """Yield what an argument without an option means: a configuration, a file of Python, or ``module:callable``."""
    if text.startswith("["):
        return
    name, _, _ = text.partition(":")
    if name.endswith(CONFIGURATIONS):
        yield Written(place, "include", text)
    elif name.endswith((".py", ".wsgi")):
        yield Written(place, "wsgi-file", text)
    elif ":" in text:
        yield Written(place, "module", text)
    else:
        yield Written(place, text, "")
