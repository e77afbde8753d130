"""One option as uWSGI would see it, with the line that sets it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from django_workerguard.config.text import plain
from django_workerguard.errors import ConfigurationError
from django_workerguard.values import value_class

PLACEHOLDERS = frozenset(
    {"set", "set-placeholder", "set-ph"}
)  # options that define a placeholder: NAME=VALUE


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file, an argument of the command line, or a variable of the environment (line 0)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class ReadError(ConfigurationError):
    """The configuration cannot be read. The message begins with the file and the line."""

    def __init__(self, place: Place | str, problem: str, *, hint: str | None = None) -> None:
        self.place = place
        super().__init__(plain(f"{place}: {problem}"), hint=hint)


class State(StrEnum):
    """Whether uWSGI would apply a directive, as far as that can be known without running anything."""

    SET = "set"
    SKIPPED = "skipped"  # uWSGI does not apply it: it is in another section, or in a loop without rounds
    UNMET = "unmet"  # it is in a block whose condition is not met on this machine
    UNKNOWN = "unknown"  # its value cannot be known without running a program or reading a foreign place


@value_class
class Written:
    """A line of a file: a key and a value, before anything is put in for variables. A key without a value has ""."""

    place: Place
    key: str
    value: str


@value_class
class Directive:
    """An option and its value, with all variables put in."""

    place: Place
    key: str
    value: str
    written: str = ""  # the value as it stands in the file
    state: State = State.SET
    remark: str = ""  # why it is skipped or unknown, or what was put in for a variable
    placeholder: bool = False  # another option uses its value, or `set-placeholder` defines it
    from_cpus: bool = False  # its value was computed from the number of this machine's CPUs, `%k`
