"""The table of uWSGI's options: what each becomes here. Read from options.toml. Runs in the command and for the documentation."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from enum import StrEnum
from importlib.resources import files

from django_workerguard.values import value_class

FILE = "options.toml"


class Verdict(StrEnum):
    """What happens to an option, the best first."""

    KEPT = "kept"  # an option of the same name
    BECOMES = "becomes"  # another option or setting
    NOT_NEEDED = "not needed"
    ELSEWHERE = "elsewhere"  # another program does it
    LOST = "lost"  # it has an effect that there is no replacement for
    UNKNOWN = "unknown"  # uWSGI has no such option, or its value is not known


class Argument(StrEnum):
    """Whether an option takes a value on uWSGI's command line."""

    NEEDED = "needed"
    POSSIBLE = "possible"
    NONE = "none"


@value_class
class Row:
    """One option: its verdict if its value does not change it, what it becomes, and why."""

    name: str
    verdict: Verdict
    becomes: str
    reason: str
    plugin: str


@value_class
class Table:
    """All options of uWSGI by name, and how its command line spells them."""

    rows: Mapping[str, Row]
    flags: frozenset[str]
    optional: frozenset[str]
    short: Mapping[str, str]

    def argument(self, name: str) -> Argument:
        if name in self.optional:
            return Argument.POSSIBLE
        return Argument.NEEDED if name in self.rows and name not in self.flags else Argument.NONE


def load_table() -> Table:
    """Read the table of the package."""
    return parse(files(__package__).joinpath(FILE).read_text())


def parse(text: str) -> Table:
    """Return the table that a text describes. Raises ValueError for a row without a verdict or with an unknown reason."""
    data = tomllib.loads(text)
    reasons: dict[str, str] = data["reasons"]
    rows = {
        name: _row(name, row, reasons, plugin)
        for plugin, options in data["options"].items()
        for name, row in options.items()
    }
    return Table(
        rows,
        frozenset(data["arguments"]["none"]),
        frozenset(data["arguments"]["optional"]),
        data["arguments"]["short"],
    )


def _row(name: str, row: str, reasons: Mapping[str, str], plugin: str) -> Row:
    verdict, becomes, reason = (part.strip() for part in row.split("|"))
    if reason.startswith("@"):
        reason = reasons[reason[1:]]
    return Row(name, Verdict(verdict), becomes, reason, plugin)
