"""uWSGI's variables of one letter, such as ``%d`` for the directory of the file. Runs in the command."""

from __future__ import annotations

import os
import re

from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.values import value_class

VERSION = "2.0.31"
JOINED = "\1"  # marks a line end that a percent sign has swallowed, so that line numbers stay right
_VARIABLE = re.compile(r"%(.)", re.DOTALL)
OF_FIRST = str.maketrans("odspcenxij", "ODSPCENXIJ")


@value_class
class Location:
    """A file and its section as they are named in ``FILE:SECTION``."""

    file: str
    section: str = ""

    @classmethod
    def parse(cls, spec: str) -> Location:
        """Split at the last colon, as uWSGI does."""
        file, colon, section = spec.rpartition(":")
        return cls(file, section) if colon else cls(spec)


def host_variables(machine: Machine) -> dict[str, str]:
    """Return the variables that are the same in every file."""
    return {
        "%": "%",
        "(": "%(",
        "[": "\033",
        "v": machine.directory,
        "h": machine.hostname,
        "t": str(int(machine.now)),
        "T": str(int(machine.now * 1_000_000)),
        "V": VERSION,
        "k": str(machine.cpus),
        "u": str(machine.uid),
        "U": machine.user,
        "g": str(machine.gid),
        "G": machine.group,
        "b": "uwsgi",
    }


def file_variables(location: Location, machine: Machine) -> dict[str, str]:
    """Return the variables of one file."""
    path = machine.absolute(location.file)
    full = path if os.path.islink(path) else os.path.realpath(path)
    directory, name = os.path.split(full)
    stem, dot, extension = name.rpartition(".")
    parts = [part for part in directory.split("/") if part]
    variables = {
        "o": location.file,
        "p": full,
        "s": name,
        "d": directory.rstrip("/") + "/",
        "n": stem if dot else name,
        "e": extension if dot else "",
        "c": parts[-1] if parts else "",
        "x": location.section,
        "i": _inode(full),
        "j": _hash(full),
    }
    numbered = {str(number): "" for number in range(10)}
    return variables | numbered | {str(number): part for number, part in enumerate(parts[:10])}


def first_file(variables: dict[str, str]) -> dict[str, str]:
    """Return the variables in upper case, which stay those of the first file."""
    return {name.translate(OF_FIRST): value for name, value in variables.items() if name in "odspcenxij"}


def _inode(path: str) -> str:
    try:
        return str(os.lstat(path).st_ino)
    except OSError:
        return ""


def _hash(path: str) -> str:
    """Return uWSGI's hash of a path, as its bytes lie in memory."""
    value = 5381
    for byte in os.fsencode(path):
        value = ((value << 5) + value) ^ (byte if byte < 128 else byte - 256)  # C's char has a sign
        value &= 0xFFFFFFFF
    return value.to_bytes(4, "little").hex().upper()


def substitute(text: str, variables: dict[str, str]) -> str:
    """Put in the variables. An unknown one becomes nothing; a percent sign at the end of a line joins the next line."""
    return _VARIABLE.sub(lambda found: JOINED if found[1] == "\n" else variables.get(found[1], ""), text)


def lines_with(text: str, name: str) -> list[int]:
    """Return the numbers of the lines in which a variable is put in."""
    return [1 + text.count("\n", 0, found.start()) for found in _VARIABLE.finditer(text) if found[1] == name]


def logical_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines of a substituted text with the number of the line where each begins."""
    lines, number = [], 1
    for line in text.split("\n"):
        lines.append((number, line.replace(JOINED, "")))
        number += 1 + line.count(JOINED)
    return lines
