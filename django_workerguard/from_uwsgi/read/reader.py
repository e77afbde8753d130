"""The reader: files, includes, blocks and variables, in the order in which uWSGI goes through them. Runs in the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from django_workerguard.from_uwsgi.directive import PLACEHOLDERS, Directive, Place, ReadError, State
from django_workerguard.from_uwsgi.read import command_line, ini, json, logic, magic, xml, yaml
from django_workerguard.from_uwsgi.read.file import STANDARD_INPUT, UnreadableFileError, read_text
from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.from_uwsgi.read.magic import Location
from django_workerguard.from_uwsgi.read.passes import (
    LONGEST,
    UnevaluatedError,
    compute,
    from_file,
    put_in,
    scheme_of,
)
from django_workerguard.from_uwsgi.table import Table

SECTION = "uwsgi"
PARSERS = {"xml": xml.parse, "yaml": yaml.parse, "json": json.parse}
EXTENSIONS = {".ini": "ini", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".js": "json"}
# the options that read a further file at once, and the form of the file; "": by its extension
LOADS = {
    "ini": "ini",
    "xml": "xml",
    "xmlconfig": "xml",
    "yaml": "yaml",
    "yml": "yaml",
    "json": "json",
    "js": "json",
    "include": "",
    "config": "",
}
# immediate options, whose values uWSGI uses before the passes over the values
IMMEDIATE = frozenset(
    {*LOADS, *PLACEHOLDERS, "endfor", "end-for", "endif", "end-if", "listen", "umask"}
    | {
        "declare-option",
        "plugins",
        "plugin",
        "need-plugins",
        "need-plugin",
        "strict",
        "immediate-uid",
        "immediate-gid",
    }
)
ENVIRONMENT = "UWSGI_"
NOT_OPTIONS = frozenset(
    f"UWSGI_{name}"
    for name in (
        "RELOADS",
        "VASSALS_DIR",
        "EMPEROR_FD",
        "BROODLORD_NUM",
        "EMPEROR_FD_CONFIG",
        "EMPEROR_PROXY",
    )
) | {"UWSGI_JAIL_PID", "UWSGI_ORIGINAL_PROC_NAME"}
MOST_DIRECTIVES = 20_000
MOST_REPLACEMENTS = 20_000  # of variables in all values together
MOST_CHARACTERS = 1 << 23  # of all values together, as they are written
MOST_FILES = 200


@dataclass
class _Entry:
    place: Place
    key: str
    value: str
    written: str
    state: State = State.SET
    remark: str = ""
    placeholder: bool = False
    configured: bool = False  # uWSGI has used the value already: the passes leave it as it is
    from_cpus: bool = False

    def directive(self) -> Directive:
        return Directive(
            self.place,
            self.key,
            self.value,
            self.written,
            self.state,
            self.remark,
            self.placeholder,
            self.from_cpus,
        )


@dataclass
class Reader:
    """Collects directives from files, from arguments and from the environment; `finish` returns them."""

    machine: Machine
    _entries: list[_Entry] = field(default_factory=list)
    _first: dict[str, _Entry] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _block: logic.Block | None = None
    _in_round: bool = False
    _reading: list[tuple[str, str]] = field(default_factory=list)
    _variables: dict[str, str] = field(default_factory=dict)
    _last_ini: str = ""
    _files: int = 0
    _replacements: int = 0
    _characters: int = 0
    _sections: dict[str, Sequence[ini.Section]] = field(default_factory=dict)
    _read_sections: set[tuple[str, str]] = field(default_factory=set)
    _with_cpus: set[Place] = field(default_factory=set)  # lines in which %k is put in

    def __post_init__(self) -> None:
        self._variables = magic.host_variables(self.machine)

    def read_environment(self) -> None:
        """Add the options that ``UWSGI_…`` variables set."""
        for name, value in self.machine.environ.items():
            if name.startswith(ENVIRONMENT) and name not in NOT_OPTIONS:
                key = name.removeprefix(ENVIRONMENT).lower().replace("_", "-")
                self.add(Place(f"{name} in the environment", 0), key, value)

    def read_file(self, spec: str) -> None:
        """Add the options of ``FILE`` or ``FILE:SECTION``. Raises ReadError if it cannot be read."""
        whole = (
            Location(spec) if self.machine.exists(spec) or spec == STANDARD_INPUT else Location.parse(spec)
        )
        place = Place(whole.file, 1)
        try:
            problem = self._load(whole, place, form=None)
        except UnreadableFileError as error:
            raise ReadError(whole.file, f"it cannot be read: {error}") from None
        if problem:
            raise ReadError(place, problem)

    def add(self, place: Place, key: str, value: str) -> None:
        """Add an option as it is written. Raises ReadError."""
        if self._block and not self._in_round and key not in logic.ENDS:
            self._in_round = True
            for one in logic.rounds(self._block, value, self._value, self.machine):
                self._append(_Entry(place, key, one.value, value, one.state, one.remark))
            self._in_round = False
            return
        if not self._in_round and key in logic.ENDS:
            self._block = None
        self._append(_Entry(place, key, value, value))

    def _append(self, entry: _Entry) -> None:
        entry.from_cpus = entry.place in self._with_cpus
        self._entries.append(entry)
        if len(self._entries) > MOST_DIRECTIVES:
            raise ReadError(entry.place, f"the configuration has more than {MOST_DIRECTIVES} options")
        if max(len(entry.key), len(entry.value)) > LONGEST:
            raise ReadError(entry.place, f"the line has more than {LONGEST} characters")
        self._characters += len(entry.value)
        if self._characters > MOST_CHARACTERS:
            raise ReadError(
                entry.place, f"the values have more than {MOST_CHARACTERS >> 20} million characters in all"
            )
        if entry.state is not State.SET:
            return
        self._first.setdefault(entry.key, entry)
        if name := logic.opens(entry.key):
            if self._block:
                raise ReadError(entry.place, f"{entry.key} in a block: uWSGI has no blocks within blocks")
            entry.configured = True
            self._block = logic.Block(name, entry.value, entry.place)
        elif entry.key in IMMEDIATE:
            entry.configured = True
            self._use_at_once(entry)

    def _use_at_once(self, entry: _Entry) -> None:
        if entry.key in PLACEHOLDERS:
            name, equal, value = entry.value.partition("=")
            if not equal:
                raise ReadError(
                    entry.place, f"{entry.key} = {entry.value}: this is not of the form name=value"
                )
            only = entry.key != "set"  # `set` also sets an option, the others only define a placeholder
            self._append(_Entry(entry.place, name, value, value, placeholder=only, configured=only))
        elif entry.key in LOADS:
            self._include(entry)

    def _include(self, entry: _Entry) -> None:
        try:
            if scheme := scheme_of(entry.value):
                raise UnreadableFileError(f"{scheme}:// is never evaluated here: put its content into a file")
            location = Location.parse(entry.value)
            if not location.file:
                location = Location(self._last_ini, location.section)
            entry.remark = self._load(location, entry.place, form=LOADS[entry.key])
        except UnreadableFileError as error:
            entry.remark = f"{entry.value!r} cannot be read: {error}"
        entry.state = State.UNKNOWN if entry.remark else State.SET

    def _load(self, location: Location, place: Place, *, form: str | None) -> str:
        """Read a file or a section of it, and return what is wrong with it; "" if nothing is.

        ``form``: "" is the one of the extension, None also looks at the content.
        """
        path = location.file if location.file == STANDARD_INPUT else self.machine.absolute(location.file)
        wanted = location.section or SECTION
        here = (os.path.realpath(path), wanted)
        if here in self._reading:
            raise ReadError(place, f"{location.file} (section {wanted}) includes itself")
        self._files += 1
        if self._files > MOST_FILES:
            raise ReadError(place, f"more than {MOST_FILES} files are included")
        form = form or EXTENSIONS.get(os.path.splitext(path)[1], "" if form == "" else None)
        if form == "":
            return f"the extension of {location.file!r} is not that of a configuration file"
        text = read_text(path)
        form = form or _guess(text)
        variables = magic.file_variables(location, self.machine)
        if not self._files > 1:
            self._variables |= magic.first_file(variables)
        substituted = magic.substitute(text, self._variables | variables)
        self._with_cpus |= {Place(location.file, line) for line in magic.lines_with(text, "k")}
        self._reading.append(here)
        try:
            return self._read(form, substituted, location, wanted, here[0])
        finally:
            self._reading.pop()

    def _read(self, form: str, text: str, location: Location, wanted: str, real: str) -> str:
        if form == "ini":
            self._last_ini = location.file
            parts = list(ini.sections(text, location.file))
            self._note(parts, real, wanted)
            lines = [line for part in parts if part.name == wanted for line in part.lines]
            problem = f"there is no section [{wanted}] with options" if not lines else ""
            problem += _others(parts) if problem else ""
        else:
            of_form = PARSERS[form](
                text.replace(magic.JOINED, "\n"), location.file, location.section if form == "xml" else wanted
            )
            lines, problem = of_form or [], "" if of_form is not None else f"there is no {wanted!r} in it"
        for line in lines:
            self.add(line.place, line.key, line.value)
        return problem

    def _note(self, parts: Sequence[ini.Section], real: str, wanted: str) -> None:
        """Remember the sections of a file, to report those that were not read."""
        self._read_sections.add((real, wanted))
        self._sections.setdefault(real, parts)

    def finish(self) -> tuple[Directive, ...]:
        """Put in all variables, read what is inherited, and return everything."""
        passes: tuple[tuple[str, Callable[[_Entry], Callable[[str], str | None]]], ...] = (
            ("$", lambda _: self.machine.environ.get),
            ("@", lambda _: from_file(self.machine)),
            ("%", lambda entry: partial(self._option, entry)),
        )
        for symbol, look_up in passes:
            for entry in self._entries:
                if not entry.configured and entry.state is State.SET:
                    self._pass_over(entry, symbol, look_up(entry))
        at = 0
        while at < len(self._entries):
            entry = self._entries[at]
            if entry.key == "inherit" and entry.state is State.SET:
                self._inherit(entry)
            at += 1
        for entry in self._entries:
            entry.placeholder |= entry.key in self._used
        return (*(entry.directive() for entry in self._entries), *self._unread())

    def _pass_over(self, entry: _Entry, symbol: str, look_up: Callable[[str], str | None]) -> None:
        try:
            entry.value, replaced = put_in(entry.value, symbol, look_up)
            self._replacements += replaced
            if self._replacements > MOST_REPLACEMENTS:
                raise ReadError(entry.place, f"there are more than {MOST_REPLACEMENTS} variables to put in")
        except UnevaluatedError as error:
            entry.state, entry.remark = State.UNKNOWN, str(error)

    def _value(self, name: str) -> str | None:
        entry = self._first.get(name)
        return None if entry is None else entry.value

    def _option(self, user: _Entry, expression: str) -> str | None:
        names = expression.split() if " " in expression else [expression]
        found = {name: self._first[name] for name in names if name in self._first}
        self._used |= found.keys()
        user.from_cpus |= any(one.from_cpus for one in found.values())
        return compute(expression, {name: one.value for name, one in found.items()})

    def _inherit(self, entry: _Entry) -> None:
        """Read an inherited file. uWSGI does so after its passes, so variables in it keep their names."""
        before = len(self._entries)
        try:
            entry.remark = self._load(Location.parse(entry.value), entry.place, form="")
        except UnreadableFileError as error:
            entry.remark = f"{entry.value!r} cannot be read: {error}"
        entry.state = State.UNKNOWN if entry.remark else State.SET
        for inherited in self._entries[before:]:
            inherited.configured = True

    def _unread(self) -> list[Directive]:
        unread = []
        for real, parts in self._sections.items():
            for part in parts:
                if (real, part.name) not in self._read_sections:
                    where = f"section [{part.name}]" if part.name else "part before the first section"
                    how = f"; FILE:{part.name} translates it" if part.name else ""
                    remark = f"uWSGI does not read the {where} here{how}"
                    unread += [
                        Directive(line.place, line.key, line.value, line.value, State.SKIPPED, remark)
                        for line in part.lines
                    ]
        return unread


def _guess(text: str) -> str:
    """Return the form of a file without a known extension."""
    return {"<": "xml", "{": "json"}.get(text.lstrip()[:1], "ini")


def _others(parts: Sequence[ini.Section]) -> str:
    names = dict.fromkeys(part.name for part in parts if part.name)
    return f"; its sections: {', '.join(names)}" if names else ""


def read(
    files: Sequence[str], arguments: Sequence[str], *, machine: Machine, table: Table
) -> tuple[Directive, ...]:
    """Return what uWSGI would see of these files, of its own command line, and of ``UWSGI_…`` in the environment.

    Raises ReadError, which names the file and the line.
    """
    reader = Reader(machine)
    reader.read_environment()
    for file in files:
        reader.read_file(file)
    for written in command_line.parse(arguments, table):
        reader.add(written.place, written.key, written.value)
    return reader.finish()
