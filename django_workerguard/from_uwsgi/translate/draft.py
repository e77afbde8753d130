"""The translation while it is made: settings, environment, addresses, snippets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

from django_workerguard.config.options import OPTIONS
from django_workerguard.from_uwsgi.directive import Directive, Place, State
from django_workerguard.from_uwsgi.table import Table, Verdict
from django_workerguard.values import value_class

OFF = frozenset({"false", "off", "no", "0"})
MOST = (1 << 31) - 1  # uWSGI's and gunicorn's whole numbers
_NUMBER = re.compile(r"\s*\+?(\d{1,16})")


class ValueNotUnderstoodError(Exception):
    """A value that cannot be translated. The text says why."""


@value_class
class Outcome:
    """What becomes of one directive."""

    verdict: Verdict
    text: str = ""


@value_class
class Snippet:
    """A part of another program's configuration."""

    title: str
    text: str


@value_class
class Address:
    """An address to listen on, and the protocol that uWSGI speaks there: http or uwsgi."""

    bind: str
    protocol: str


@dataclass
class Row:
    """One directive of the report."""

    directive: Directive
    verdict: Verdict
    text: str
    sets: frozenset[str] = frozenset()

    @property
    def place(self) -> Place:
        return self.directive.place


@dataclass
class Draft:
    """Collects the translation. The rules read the other directives with `last` and `all`."""

    directives: tuple[Directive, ...]
    table: Table
    settings: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    python: str = ""  # the interpreter of the virtual environment
    directory: str = ""
    user: str = ""
    group: str = ""
    addresses: list[Address] = field(default_factory=list)
    snippets: dict[Snippet, None] = field(default_factory=dict)  # in their order, each once
    unit: list[str] = field(default_factory=list)  # lines for [Service] of a systemd unit
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    access_log: str = "-"
    lazy: bool = False
    hints: int = 0  # names of similar options that were looked up
    # by key: the values of the directives that uWSGI would apply, each with its number
    _applied: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, one in enumerate(self.directives):
            if one.state is State.SET:
                self._applied.setdefault(one.key, []).append((number, one.value))

    def all(self, *keys: str) -> list[str]:
        """Return the values of options that uWSGI would apply, in their order."""
        return [value for _, value in merge(*(self._applied.get(key, []) for key in keys))]

    def last(self, *keys: str) -> str:
        """Return the last value of some options; "" if none of them is set."""
        return max((self._applied[key][-1] for key in keys if key in self._applied), default=(-1, ""))[1]

    def set(self, key: str, value: Any) -> None:
        """Set an option of WORKERGUARD. Raises ValueNotUnderstoodError if the guard would refuse the value."""
        option = OPTIONS.get(key.lower())
        if option:
            try:
                option.parse(value)
            except ValueError as error:
                raise ValueNotUnderstoodError(str(error)) from None
        self.settings[key] = value

    def add(self, key: str, values: Iterable[str]) -> None:
        """Append to a setting that is a list, without repetitions."""
        self.settings[key] = list(dict.fromkeys((*self.settings.get(key, ()), *values)))

    def snippet(self, title: str, text: str) -> None:
        self.snippets[Snippet(title, text.rstrip("\n"))] = None

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def is_on(value: str) -> bool:
    """Return whether uWSGI takes a value of a switch for true: everything but false, off, no and 0."""
    return value.strip().lower() not in OFF


def number(value: str) -> int:
    """Return the number at the beginning of a value, as C's atoi does. Raises ValueNotUnderstoodError if there is none."""
    found = _NUMBER.match(value)
    if found is None or int(found[1]) > MOST:
        raise ValueNotUnderstoodError(f"{value!r} is not a whole number from 0 up")
    return int(found[1])


def key_values(value: str) -> dict[str, str]:
    """Parse uWSGI's ``key=value,key=value``."""
    pairs = (part.partition("=") for part in value.split(","))
    return {key.strip(): text.strip() for key, _, text in pairs if key.strip()}


def becomes(text: str) -> Outcome:
    return Outcome(Verdict.BECOMES, text)


def kept(text: str) -> Outcome:
    return Outcome(Verdict.KEPT, text)


def not_needed(text: str) -> Outcome:
    return Outcome(Verdict.NOT_NEEDED, text)


def elsewhere(text: str) -> Outcome:
    return Outcome(Verdict.ELSEWHERE, text)


def lost(text: str) -> Outcome:
    return Outcome(Verdict.LOST, text)


def unknown(text: str) -> Outcome:
    return Outcome(Verdict.UNKNOWN, text)
