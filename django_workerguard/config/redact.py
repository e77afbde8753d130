"""Description of a failure without the project's secrets. Runs in the worker, the settings process and the arbiter.

The names that count as secret are those of Django's error reporter. It must work even if
Django is only half loaded, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from django_workerguard.config.django_settings import all_settings
from django_workerguard.config.text import plain

SUBSTITUTE = "********************"
HIDDEN = re.compile(r"API|AUTH|TOKEN|KEY|SECRET|PASS|SIGNATURE|HTTP_COOKIE", re.IGNORECASE)
# names of harmless settings, although they contain a secret word: modules, cookies, places and rules
HARMLESS = re.compile(
    r"AUTH_PASSWORD_VALIDATORS|AUTHENTICATION_BACKENDS|AUTH_USER_MODEL|PASSWORD_HASHERS|KEY_FUNCTION"
    r"|(?:.*_)?KEY_PREFIX|.*_(?:NAME|PATH|DOMAIN|URL|HOST|HEADER|TIMEOUT|AGE|CLASS|CLASSES|MODEL|BACKENDS?)",
    re.IGNORECASE,
)
SHORTEST = 4  # characters; replacing shorter values would hide half of every text
DEEPEST = 6
BRIEF = 160  # characters of a message that is one of several
LONGEST = 4096  # characters of one line that are shown
# the part before the word is bounded, so that the time grows only linearly with the length of the text
_ASSIGNMENT = re.compile(
    r"(?P<name>['\"]?(?<![\w.-])[\w.-]{0,128}?(?:api_?key|auth|token|secret|pass|signature|key)[\w.-]{0,64}"
    r"['\"]?\s{0,8}(?:=|:)\s{0,8}(?:(?:bearer|basic|token)\s+)?)"
    r"(?P<value>'[^'\n]*'|\"[^\"\n]*\"|\([^)\n]*\)|\[[^\]\n]*\]|[^\s,;)}\]]+)",
    re.IGNORECASE,
)
_WORD = r"(?:password|passwd|passphrase|token|secret|api[-_ ]?key)"
_FLAG = re.compile(
    rf"(?P<name>(?<![\w-])--?[\w-]{{0,64}}?{_WORD}[\w-]{{0,64}}\s{{1,8}})(?P<value>'[^'\n]*'|\"[^\"\n]*\"|[^\s'\"-]\S*)",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    rf"(?P<name>(?<![\w-]){_WORD}['\"]?\s{{1,8}}(?:is|was)\s{{1,8}})(?P<value>'[^'\n]*'|\"[^\"\n]*\"|\S+)",
    re.IGNORECASE,
)
_LITERAL = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_FRAME = re.compile(r"[\s|+-]*File \"[^\"]*\", line \d+")
_CREDENTIALS = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,32}://[^\s:/@'\"]{0,256}):[^\s'\"]+@", re.IGNORECASE
)
_BEARER = re.compile(r"(?P<scheme>\b(?:bearer|basic)\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE)


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return type, message and traceback of a failure, redacted. Tracebacks hold no values of variables."""
    secrets = _all_secrets(error)
    lines = traceback.format_exception(error)
    return {
        "type": type(error).__name__,
        "message": redact(str(error), secrets),
        "traceback": "".join(redact(line, secrets, source=True) for line in lines),
    }


def in_short(error: BaseException) -> str:
    """Return a failure in one line, with the file and the line, without secrets."""
    secrets = _all_secrets(error)
    if isinstance(error, OSError):
        return plain(redact(error.strerror or str(error), secrets))
    text = redact(" ".join(f"{type(error).__name__}: {error}".split()), secrets)
    return plain(text if isinstance(error, SyntaxError) else text + _place(error))


def _place(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    return f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""


def describe_briefly(error: BaseException) -> tuple[str, str]:
    """Return the type of a failure and the first line of its message, redacted and short."""
    lines = redact(str(error), _all_secrets(error)).strip().splitlines() or [""]
    return type(error).__name__, lines[0][:BRIEF]


def redact(text: str, secrets: list[str], *, source: bool = False) -> str:
    """Replace secret values, ``password=…``, ``--password …``, "password is …" and credentials in URLs.

    ``source``: in lines of source code only literals are replaced, because ``token = read()`` shows no secret. The line
    of a traceback that names file, line and function is kept.
    """
    in_source = source and _FRAME.match(text) is not None
    return "\n".join(
        line if _FRAME.match(line) else _redacted(line, secrets, in_source=in_source)
        for line in text.split("\n")
    )


def _redacted(line: str, secrets: list[str], *, in_source: bool) -> str:
    for secret in secrets:
        line = _without(secret, line)
    line = _shortened(line)
    line = _BEARER.sub(rf"\g<scheme>{SUBSTITUTE}", line)
    line = _CREDENTIALS.sub(rf"\g<scheme>:{SUBSTITUTE}@", line)
    line = _FLAG.sub(rf"\g<name>{SUBSTITUTE}", line)
    line = _STATEMENT.sub(_unless_prose, line)
    return _ASSIGNMENT.sub(_literal_only if in_source else rf"\g<name>{SUBSTITUTE}", line)


def _without(secret: str, line: str) -> str:
    """Replace a secret: anywhere if it is unmistakable, else only as a whole value, not in a word or a path."""
    if secret not in line:
        return line
    if _is_unmistakable(secret):
        return line.replace(secret, SUBSTITUTE)
    return re.sub(rf"(?<![\w./-]){re.escape(secret)}(?![\w/-]|\.\w)", SUBSTITUTE, line)


def _is_unmistakable(secret: str) -> bool:
    if len(secret) >= 20:
        return "/" not in secret
    return len(secret) >= 8 and any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))


def _unless_prose(match: re.Match[str]) -> str:
    """Keep "the token is wrong", because a lower-case word is not a secret."""
    is_word = re.fullmatch(r"[a-z]+[.,;:!]?", match["value"])
    return match[0] if is_word else match["name"] + SUBSTITUTE


def _shortened(line: str) -> str:
    left_out = len(line) - LONGEST
    return f"{line[:LONGEST]}… ({left_out} characters more)" if left_out > 0 else line


def _literal_only(match: re.Match[str]) -> str:
    """Replace a value in a line of source only if it is, contains or is part of a literal."""
    if match["value"][0] in "([":
        return match["name"] + _LITERAL.sub(f"'{SUBSTITUTE}'", match["value"])
    before = match.string[: match.start("value")]
    inside = before.count('"') % 2 == 1 or before.count("'") % 2 == 1
    literal = inside or match["value"][0] in "'\""
    return match["name"] + SUBSTITUTE if literal else match[0]


def _all_secrets(error: BaseException) -> list[str]:
    """Return all secrets, the longest first, so that no part of one remains."""
    return sorted({*_secrets(), *_secrets_of_modules(error)}, key=len, reverse=True)


def _is_secret(name: str) -> bool:
    return HIDDEN.search(name) is not None and HARMLESS.fullmatch(name) is None


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _is_secret(name) and len(value) >= SHORTEST:
            yield value
    with contextlib.suppress(Exception):
        yield from _values(all_settings(), hidden=False, depth=0)


def _secrets_of_modules(error: BaseException) -> Iterator[str]:
    """Yield the secrets that modules had set before their import failed, such as half-read settings."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "<module>":
            constants = {name: value for name, value in frame.f_globals.items() if name.isupper()}
            yield from _values(constants, hidden=False, depth=0)


def _values(value: Any, *, hidden: bool, depth: int) -> Iterator[str]:
    """Yield every string under a secret name."""
    if depth > DEEPEST:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            secret = hidden or (isinstance(key, str) and _is_secret(key))
            yield from _values(inner, hidden=secret and not _is_dotted(inner), depth=depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _values(inner, hidden=hidden and not _is_dotted(inner), depth=depth + 1)
    elif hidden and isinstance(value, str) and len(value) >= SHORTEST:
        yield value


def _is_dotted(value: Any) -> bool:
    """Return whether a value is the name of a class, as in AUTHENTICATION_BACKENDS: that is not a secret."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", value))
