"""Parsers of option values: durations, sizes, counts, switches, lists. Pure.

Every parser takes the raw value of a setting (any type), or of a command line or an environment
variable (a string). It raises ValueError with a sentence that says which values it accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from django_workerguard.config.text import MEGABYTE

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"k": 1024, "kb": 1024, "m": MEGABYTE, "mb": MEGABYTE, "g": MEGABYTE * 1024, "gb": MEGABYTE * 1024}
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off", ""})
# limits with which sums and products still fit into the scoreboard's words
LONGEST = 10 * 365 * 86400.0  # seconds
LARGEST = 1 << 50  # bytes
MOST = 1 << 50
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)")


def seconds(raw: Any) -> float:
    """Parse a duration: a number of seconds, or a text such as "500ms", "6h" or "2d"."""
    expected = "a duration such as 30, 1.5, 500ms, 10m or 6h, not below 0 and no longer than ten years"
    return _quantity(raw, SECONDS, 1.0, expected, most=LONGEST)


def megabytes(raw: Any) -> int:
    """Parse a size into bytes: a number of megabytes, as in uWSGI, or a text such as "400M" or "1.5G"."""
    expected = "a size such as 400 (megabytes), 400M or 1.5G, not below 0 and no larger than a petabyte"
    return int(_quantity(raw, BYTES, MEGABYTE, expected, most=LARGEST))


def _quantity(
    raw: Any, units: dict[str, float] | dict[str, int], bare: float, expected: str, *, most: float
) -> float:
    if isinstance(raw, bool):
        raise ValueError(f"{raw!r} is not {expected}")
    match = _QUANTITY.fullmatch(str(raw).strip().lower())
    unit = match["unit"] if match else ""
    if match is None or (unit and unit not in units):
        raise ValueError(f"{raw!r} is not {expected}")
    quantity = float(match["number"]) * (units[unit] if unit else bare)
    if quantity > most:
        raise ValueError(f"{raw!r} is not {expected}")
    return quantity


def count(least: int) -> Callable[[Any], int]:
    """Return a parser of whole numbers from ``least`` up."""

    def parse(raw: Any) -> int:
        number = str(raw).strip()
        if isinstance(raw, bool) or not re.fullmatch(r"\d{1,16}", number) or not least <= int(number) <= MOST:
            raise ValueError(f"{raw!r} is not a whole number from {least} up")
        return int(number)

    return parse


def switch(raw: Any) -> bool:
    """Parse a boolean as in uWSGI: true, 1, yes, on and their opposites."""
    if isinstance(raw, bool):
        return raw
    word = str(raw).strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ValueError(f"{raw!r} is not one of true, false, on, off, yes, no, 1, 0")


def choice(names: Iterable[str], *, synonyms: dict[str, str] | None = None) -> Callable[[Any], str]:
    """Return a parser of one word out of ``names``; ``synonyms`` map other spellings to them."""
    names = tuple(names)

    def parse(raw: Any) -> str:
        word = str(raw).strip().lower()
        word = (synonyms or {}).get(word, word)
        if word not in names:
            raise ValueError(f"{raw!r} is not one of {', '.join(names)}")
        return word

    return parse


def words(raw: Any) -> tuple[str, ...]:
    """Parse a list of words: a list or tuple, or a string separated by commas."""
    if isinstance(raw, str):
        return tuple(part.strip() for part in raw.split(",") if part.strip())
    if isinstance(raw, list | tuple) and all(isinstance(part, str) for part in raw):
        return tuple(raw)
    raise ValueError(f"{raw!r} is not a list of strings or a string separated by commas")


def text(raw: Any) -> str:
    """Parse a string."""
    if isinstance(raw, str) or hasattr(raw, "__fspath__"):
        return str(raw)
    raise ValueError(f"{raw!r} is not a string")


def text_or_none(raw: Any) -> str | None:
    """Parse a string; an empty one is None."""
    return text(raw) or None


def dotted(raw: Any) -> str:
    """Parse the name of an object: ``module:attribute``, as in gunicorn and uWSGI."""
    name = text(raw)
    if not re.fullmatch(r"[\w.]+:[\w.]+", name):
        raise ValueError(f"{raw!r} is not of the form module:callable")
    return name


def file_mode(raw: Any) -> int | None:
    """Parse the mode of a file in octal digits; an empty string is None.

    A number is refused: 440 could be meant in octal or in decimal digits.
    """
    digits = text(raw).strip() if not isinstance(raw, int) else ""
    if not isinstance(raw, int) and not digits:
        return None
    if not re.fullmatch(r"(?:0o?)?[0-7]{3}", digits):
        raise ValueError(f"{raw!r} is not a mode such as '660', a string of three octal digits")
    return int(digits, 8)


def owner(raw: Any) -> str:
    """Parse ``user``, ``user:group`` or ``:group``, names or numbers."""
    spec = text(raw).strip()
    if spec and not re.fullmatch(r"[\w.@-]+\$?(?::[\w.@-]+)?|:[\w.@-]+", spec):
        raise ValueError(f"{raw!r} is not of the form user, user:group or :group")
    return spec


def url_path(raw: Any) -> str:
    """Parse the path of a URL, which must begin and end with a slash."""
    path = text(raw)
    if not re.fullmatch(r"/(?:[\w.~%-]+/)+", path):
        raise ValueError(f"{raw!r} is not a path such as /health/ (with a slash at both ends)")
    return path
