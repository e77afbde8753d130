"""uWSGI's three passes over the values: ``$(ENVIRONMENT)``, then ``@(file)``, then ``%(option)``. Runs in the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from django_workerguard.from_uwsgi.directive import ReadError
from django_workerguard.from_uwsgi.read.file import LARGEST_VALUE, UnreadableFileError, read_text
from django_workerguard.from_uwsgi.read.machine import Machine

# the sources of uWSGI that run a program, ask another host, or read the memory of its own process
SCHEMES = ("emperor", "http", "data", "sym", "section", "fd", "exec", "call", "callint")
MOST_VALUES = 1000  # values put into one value
LONGEST = 1 << 13  # characters of one value; no site needs as many, and time grows with their square
_NUMBER = re.compile(r"\s*([+-]?\d+)")


class UnevaluatedError(Exception):
    """A value that is not evaluated here. The text says why."""


def scheme_of(spec: str) -> str:
    """Return the scheme of ``exec://…``, or "" for a plain path."""
    scheme, separator, _ = spec.partition("://")
    return scheme if separator and scheme in SCHEMES else ""


def put_in(value: str, symbol: str, look_up: Callable[[str], str | None]) -> tuple[str, int]:
    """Replace each ``symbol(name)``, innermost first, by what ``look_up`` returns; None leaves it as it is.

    Return the new value and the number of replacements. It mirrors uwsgi_apply_config_pass: what was put in is searched again. Raises UnevaluatedError if there is no end.
    """
    at = found = depth = start = replaced = 0
    while at < len(value):
        char = value[at]
        if char == symbol:
            found = 1
        elif char == "(" and found == 1:
            found, depth, start = 2, 0, at + 1
        elif found > 1:
            found += 1
            if char == "(":
                depth += 1
            elif char == ")" and depth:
                depth -= 1
            elif char == ")":
                new = look_up(value[start : start + found - 3]) if found > 3 else None
                found = 0
                if new is not None:
                    replaced += 1
                    value = value[: start - 2] + new + value[at + 1 :]
                    at = 0
                    if replaced > MOST_VALUES or len(value) > LONGEST:
                        raise UnevaluatedError(f"{symbol}(…) refers to itself, or its value is too long")
        else:
            found = 0
        at += 1
    return value, replaced


def from_file(machine: Machine) -> Callable[[str], str]:
    """Return the look-up of ``@(path)``: plain files only."""

    def look_up(path: str) -> str:
        if scheme := scheme_of(path):
            raise UnevaluatedError(f"@({scheme}://…) is never evaluated here: put its value into the file")
        try:
            text = read_text(machine.absolute(path), largest=LARGEST_VALUE)
        except (UnreadableFileError, ReadError) as error:
            raise UnevaluatedError(f"@({path}) cannot be read: {error}") from None
        return text[:-1] if text.endswith(("\n", "\r")) else text

    return look_up


def compute(expression: str, options: Mapping[str, str]) -> str | None:
    """Return the value of ``%(name)`` or of ``%(a b + 1)``, as uwsgi_manage_placeholder does; None if it is not defined."""
    if " " not in expression:
        return options.get(expression)
    current: str | None = None
    operator = ""
    for word in expression.split():
        if word in ("+", "-", "*", "/"):
            operator = word
        elif word in ("++", "--"):
            current = None if current is None else str(_number(current) + (1 if word == "++" else -1))
            operator = ""
        else:
            value = word if word.isascii() and word.isdigit() else options.get(word, "")
            current = _applied(operator, current or "", value)
            operator = ""
    return current


def _applied(operator: str, left: str, right: str) -> str:
    one, two = _number(left), _number(right)
    match operator:
        case "+":
            return str(one + two)
        case "-":
            return str(one - two)
        case "*":
            return str(one * two)
        case "/":
            return str(int(one / two)) if two and abs(one) < 1 << 53 else str(one // two if two else 0)
        case _:
            return left + right


def _number(text: str) -> int:
    found = _NUMBER.match(text)
    return int(found[1][:20]) if found else 0
