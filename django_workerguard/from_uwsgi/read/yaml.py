"""uWSGI's reading of a YAML file: a mapping of options, and a list for an option that is repeated. Pure.

Only the part of YAML that such files use is understood. Anything else is an error with its line, and never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from django_workerguard.from_uwsgi.directive import Place, ReadError, Written
from django_workerguard.from_uwsgi.read.passes import LONGEST
from django_workerguard.values import value_class

NO_KEY = tuple("[]{}&*!|>%@`#,?")  # characters that begin something else
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


@value_class
class _Line:
    place: Place
    indent: int
    text: str


def parse(text: str, file: str, wanted: str) -> list[Written] | None:
    """Return the options of the mapping, or None if there is none of that name. Raises ReadError for what is not understood."""
    lines = list(_lines(text, file))
    for number, line in enumerate(lines):
        found = _pair(line)
        if line.indent == 0 and found and found[0] == wanted:
            if found[1]:
                raise ReadError(line.place, f"{wanted!r} is not a mapping of options")
            return list(_options(lines[number + 1 :]))
    return None


def _lines(text: str, file: str) -> Iterator[_Line]:
    for number, raw in enumerate(text.split("\n"), 1):
        place, line = Place(file, number), raw.rstrip("\r")
        blanks = line[: len(line) - len(line.lstrip())]
        stripped = _without_comment(line.strip())
        if not stripped or stripped == "---" or (number == 1 and stripped.startswith("%YAML")):
            continue
        if stripped == "...":
            return
        if len(line) > LONGEST:
            raise ReadError(place, f"the line has more than {LONGEST} characters")
        if "\t" in blanks:
            raise ReadError(place, "YAML forbids tabs at the beginning of a line")
        yield _Line(place, len(blanks), stripped)


def _without_comment(text: str) -> str:
    """Cut a comment off, but not a hash inside quotes."""
    quote = ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not (quote == '"' and text[at - 1] == "\\") else quote
        elif char in "'\"" and (at == 0 or text[at - 1] in " :[,-"):
            quote = char
        elif char == "#" and (at == 0 or text[at - 1].isspace()):
            return text[:at].rstrip()
    return text


def _options(lines: list[_Line]) -> Iterator[Written]:
    inner = lines[0].indent if lines else 0
    key, items_indent = "", -1
    head: Written | None = None  # an option without a value so far
    for line in lines:
        if line.indent == 0 and not (line.text.startswith("- ") and key):
            break
        if line.text == "-" or line.text.startswith("- "):
            if not key:
                raise ReadError(line.place, "a list needs an option in front of it")
            if items_indent not in (-1, line.indent):
                raise ReadError(line.place, "the entries of a list are not indented alike")
            items_indent, head = line.indent, None
            yield Written(line.place, key, _scalar(line.text[1:].strip(), line.place))
            continue
        if line.indent != inner:
            raise ReadError(line.place, "an option is indented differently from the first one")
        if head:
            yield head
        key, items_indent, head = "", -1, None
        found = _pair(line)
        if found is None:
            raise ReadError(line.place, f"{line.text[:60]!r} is not of the form 'option: value'")
        name, value = found
        if not value:
            key, head = name, Written(line.place, name, "")
        elif value.startswith("["):
            yield from (Written(line.place, name, item) for item in _flow(value, line.place))
        else:
            yield Written(line.place, name, _scalar(value, line.place))
    if head:
        yield head


def _pair(line: _Line) -> tuple[str, str] | None:
    """Split ``key: value`` at the first colon that a blank or the end of the line follows; None if there is none."""
    text = line.text
    quote = text[0] if text[0] in "'\"" else ""
    start = text.find(quote, 1) + 1 if quote else 0
    at = next(
        (
            at
            for at in range(start, len(text))
            if text[at] == ":" and text[at + 1 : at + 2] in ("", " ", "\t")
        ),
        -1,
    )
    if at <= 0 or text.startswith(NO_KEY) or (quote and not start):
        return None
    return _scalar(text[:at].rstrip(), line.place), text[at + 1 :].strip()


def _flow(text: str, place: Place) -> Iterator[str]:
    """Yield the entries of ``[a, b]``."""
    if not text.endswith("]"):
        raise ReadError(place, "a list in brackets must end in its line")
    for item in re.findall(r"\s*(?:'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|[^,]+)", text[1:-1]):
        if item.strip():
            yield _scalar(item.strip(), place)


def _scalar(text: str, place: Place) -> str:
    if text[:1] in ("'", '"'):
        if len(text) < 2 or text[-1] != text[0]:
            raise ReadError(place, "a quotation does not end in its line")
        inner = text[1:-1]
        if text[0] == "'":
            return inner.replace("''", "'")
        return _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), inner)
    if text[:1] in ("{", "[", "&", "*", "!", "|", ">", "@", "`") or (
        text.startswith("%") and not text.startswith("%(")
    ):
        raise ReadError(
            place, f"{text[:60]!r} is a form of YAML that is not read here", hint="Write a plain value."
        )
    return text
