"""Describe a failure without the project's secrets. Runs where the project's code fails: worker, settings process, arbiter.

The names that count as secret are those of Django's error reporter. It must work where
Django is half loaded, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from django_workerguard.config.django_settings import all_settings
from django_workerguard.config.printable import plain

SUBSTITUTE = "********************"
HIDDEN = re.compile(r"API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE", re.IGNORECASE)
SHORTEST = 4  # characters; what is shorter would blot out half of every text
DEEPEST = 6
BRIEF = 160  # characters of a message that is one of several
LONGEST = 4096  # characters of one line that are shown
# bounded in front of the word, so that a long text costs a time that grows with its length and no more
_ASSIGNMENT = re.compile(
    r"(?P<name>['\"]?(?<![\w.-])[\w.-]{0,128}?(?:api_?key|auth|token|secret|pass|signature|key)[\w.-]{0,64}"
    r"['\"]?\s{0,8}(?:=|:)\s{0,8}(?:(?:bearer|basic|token)\s+)?)"
    r"(?P<value>'[^'\n]*'|\"[^\"\n]*\"|[^\s,;)}\]]+)",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,32}://[^\s:/@'\"]{0,256}):[^\s'\"]+@", re.IGNORECASE
)
_BEARER = re.compile(r"(?P<scheme>\b(?:bearer|basic)\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE)


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return type, message and traceback of a failure, cleansed. Tracebacks hold no values of variables."""
    secrets = sorted({*_secrets(), *_secrets_on_the_way(error)}, key=len, reverse=True)
    lines = traceback.format_exception(error)
    return {
        "type": type(error).__name__,
        "message": cleanse(str(error), secrets),
        "traceback": "".join(cleanse(line, secrets, source=True) for line in lines),
    }


def in_short(error: BaseException) -> str:
    """Say in one line what went wrong in a file of the user's, and in which line of it, without its secrets."""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        if not isinstance(error, SyntaxError):
            text += _place(error)
    secrets = sorted({*_secrets(), *_secrets_on_the_way(error)}, key=len, reverse=True)
    return plain(cleanse(text, secrets))


def _place(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    return f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""


def describe_briefly(error: BaseException) -> tuple[str, str]:
    """Return the type of a failure and the first line of its message, cleansed and short."""
    secrets = sorted({*_secrets(), *_secrets_on_the_way(error)}, key=len, reverse=True)
    lines = cleanse(str(error), secrets).strip().splitlines() or [""]
    return type(error).__name__, lines[0][:BRIEF]


def cleanse(text: str, secrets: list[str], *, source: bool = False) -> str:
    """Replace secret values, ``password=…`` and credentials in URLs.

    ``source``: of lines of source code only literals go; ``token = read()`` tells nobody anything.
    """
    for secret in secrets:
        text = text.replace(secret, SUBSTITUTE)
    text = "\n".join(_shortened(line) for line in text.split("\n"))
    text = _BEARER.sub(rf"\g<scheme>{SUBSTITUTE}", text)
    text = _CREDENTIALS.sub(rf"\g<scheme>:{SUBSTITUTE}@", text)
    if source and text.lstrip().startswith("File "):
        return "\n".join(_ASSIGNMENT.sub(_literal_only, line) for line in text.split("\n"))
    return _ASSIGNMENT.sub(rf"\g<name>{SUBSTITUTE}", text)


def _shortened(line: str) -> str:
    left_out = len(line) - LONGEST
    return f"{line[:LONGEST]}… ({left_out} characters more)" if left_out > 0 else line


def _literal_only(match: re.Match[str]) -> str:
    """Replace a value in a line of source only where it is a literal, or lies inside one."""
    before = match.string[: match.start("value")]
    inside = before.count('"') % 2 == 1 or before.count("'") % 2 == 1
    literal = inside or match["value"][0] in "'\""
    return match["name"] + SUBSTITUTE if literal else match[0]


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if HIDDEN.search(name) and len(value) >= SHORTEST:
            yield value
    with contextlib.suppress(Exception):
        yield from _values(all_settings(), hidden=False, depth=0)


def _secrets_on_the_way(error: BaseException) -> Iterator[str]:
    """Yield what modules had set before their import failed: settings that could not be read to the end."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "<module>":
            constants = {name: value for name, value in frame.f_globals.items() if name.isupper()}
            yield from _values(constants, hidden=False, depth=0)


def _values(value: Any, *, hidden: bool, depth: int) -> Iterator[str]:
    """Yield every string under a name that is hidden."""
    if depth > DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            secret = hidden or (isinstance(key, str) and bool(HIDDEN.search(key)))
            yield from _values(inner, hidden=secret and not _is_dotted(inner), depth=depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _values(inner, hidden=hidden and not _is_dotted(inner), depth=depth + 1)
    elif hidden and isinstance(value, str) and len(value) >= SHORTEST:
        yield value


def _is_dotted(value: Any) -> bool:
    """Say whether a value names a class: AUTHENTICATION_BACKENDS and PASSWORD_HASHERS are no secrets."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", value))
