"""uWSGI's reading of a JSON file: an object of options, and a list for an option that is repeated. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import JSONDecoder
from typing import Any

from django_workerguard.from_uwsgi.directive import Place, ReadError, Written

BLANKS = " \t\n\r"
DECODER = JSONDecoder()


def parse(text: str, file: str, wanted: str) -> list[Written] | None:
    """Return the options of the object, or None if there is none of that name. Raises ReadError if it is not JSON."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReadError(Place(file, error.lineno), f"this is not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise ReadError(Place(file, 1), f"this JSON cannot be read: {error}") from None
    if not isinstance(whole, dict):
        raise ReadError(Place(file, 1), "this is not a JSON object")
    start = next((at for key, at in _members(text, 0) if key == wanted), None)
    if start is None or not isinstance(whole[wanted], dict):
        return None
    return [line for key, at in _members(text, start) for line in _options(text, file, key, at)]


def _members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Yield the keys of the object that begins at an offset of valid JSON, each with the offset of its value."""
    at = _skip(text, at) + 1
    while text[at := _skip(text, at)] != "}":
        key, at = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        yield key, at
        _, at = DECODER.raw_decode(text, at)
        at = _skip(text, at)
        at += text[at] == ","


def _items(text: str, at: int) -> Iterator[tuple[Any, int]]:
    at += 1
    while text[at := _skip(text, at)] != "]":
        item, end = DECODER.raw_decode(text, at)
        yield item, at
        at = _skip(text, end)
        at += text[at] == ","


def _options(text: str, file: str, key: str, at: int) -> Iterator[Written]:
    value, _ = DECODER.raw_decode(text, at)
    for item, where in _items(text, at) if isinstance(value, list) else [(value, at)]:
        place = Place(file, text.count("\n", 0, where) + 1)
        if isinstance(item, dict | list):
            raise ReadError(place, f"the value of {key!r} is neither a value nor a list of values")
        yield Written(place, key, _text(item))


def _text(value: object) -> str:
    match value:
        case True:
            return "1"
        case False | None:
            return "0"
        case _:
            return str(value)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in BLANKS:
        at += 1
    return at
