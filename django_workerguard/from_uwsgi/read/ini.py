"""uWSGI's reading of an ini file: sections, one option a line, no continuation lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from django_workerguard.from_uwsgi.directive import Place, ReadError, Written
from django_workerguard.from_uwsgi.read.magic import logical_lines
from django_workerguard.values import value_class

BLANKS = " \t\r"
COMMENTS = (";", "#")


@value_class
class Section:
    """The lines of one section. The lines before the first section have the name ""."""

    name: str
    place: Place
    lines: tuple[Written, ...]


def sections(text: str, file: str) -> Iterator[Section]:
    """Yield the sections of a file. Raises ReadError for a heading that uWSGI would misread."""
    name, place = "", Place(file, 1)
    lines: list[Written] = []
    for number, raw in logical_lines(text):
        line = raw.strip(BLANKS)
        if not line or line.startswith(COMMENTS):
            continue
        if line.startswith("["):
            yield Section(name, place, tuple(lines))
            place, lines = Place(file, number), []
            name = _heading(line, place)
        else:
            key, _, value = line.partition("=")
            lines.append(Written(Place(file, number), key.rstrip(BLANKS), value.strip(BLANKS)))
    yield Section(name, place, tuple(lines))


def _heading(line: str, place: Place) -> str:
    if not line.endswith("]"):
        raise ReadError(
            place,
            f"{line!r} is not a section's heading",
            hint="uWSGI takes everything up to the last character of the line for the name: write [uwsgi], without a comment.",
        )
    return line[1:-1]
