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
from functools import partial
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
TOKEN = 20  # characters; so long a secret is a token, and not a name that something else may have
SHORTEST = 4  # characters; replacing shorter values would hide half of every text
SHORTEST_LINE = 8  # characters of a line of a secret that has several
DEEPEST = 6
MOST_CAUSES = 20
BRIEF = 160  # characters of a message that is one of several
LONGEST = 4096  # characters of one line that are shown
FURTHEST = 256  # characters of a path that are read before and after a secret
# All repetitions before a word are bounded, so that the time grows only linearly with the length of the text.
_QUOTED = (
    r"(?:[bfru]{0,2}(?:'''.*?(?:'''|$)|\"\"\".*?(?:\"\"\"|$)"
    r"|'(?:\\.|[^'\\\n])*\\?'|\"(?:\\.|[^\"\\\n])*\\?\"))"
)
# The class of an exception before its message, as in "redis.exceptions.AuthenticationError: ", is no name of a secret,
# unless the first word of the message has letters and digits: "TokenExpired: abc123" may show the token. The message of
# a KeyError is the name of the key that is missing.
_EXCEPTION = (
    r"(?-i:(?:\w{0,64}\.){0,16}(?:KeyError|_?(?:"
    r"(?:Bad|Duplicate|Expired|Invalid|Missing|NoSuch)[A-Z][A-Za-z0-9]{0,64}"
    r"|(?=[A-Z])[A-Za-z0-9]{0,64}?(?:Error|Exception|Warning|Failed|Failure|Violation|Denied|Expired|Invalid|Missing"
    r"|Required|Revoked|Mismatch|Exists?|NotFound|MultipleObjectsReturned|NotAuthenticated|Unauthorized|Interrupt))"
    r"(?!:\s{0,8}(?=[^\s=:]{0,256}?\d)[^\s=:]{0,256}?[A-Za-z])):\s)"
)
_ANNOTATED = (  # as in "SECRET_KEY: str ="
    r":\s{0,8}(?:[a-z]{1,16}\.)?(?:str|bytes|Any|Final|Optional|SecretStr)(?:\[[\w.| ]{0,32}\])?"
    r"(?:\s{0,8}\|\s{0,8}None)?\s{0,8}="
)
_OF_SYSTEM_CHECK = r"\(\w{1,64}\.[A-Z]\d{3}\)"  # as in "auth.User.groups: (fields.E304) Reverse accessor"
_ASSIGNMENT = re.compile(
    rf"(?P<name>['\"]?(?<![\w.-])(?!{_EXCEPTION})"
    r"[\w.-]{0,128}?(?:api_?key|auth|token|secret|pass|signature|key)[\w.-]{0,64}"
    rf"['\"]?\]?\s{{0,8}}(?:{_ANNOTATED}|[:!=]?=>?|:)\s{{0,8}}(?:(?:bearer|basic|token)\s+)?)"
    rf"(?P<value>{_QUOTED}+[\w'\"]*|(?!{_OF_SYSTEM_CHECK})(?:\([^)\n]*\)|\[[^\]\n]*\]|\{{[^}}\n]*\}}|[^\s,;)}}\]]+))",
    re.IGNORECASE,
)
_WORD = r"(?:password|passwd|passphrase|token|secret|api[-_ ]?key)"
# A value that begins with "-" may be the next option. In a list of arguments it is hidden, unless it looks like one.
_FLAG = re.compile(
    rf"(?P<name>(?<![\w-])--?[\w-]{{0,64}}?{_WORD}[\w-]{{0,64}}"
    r"(?:\s{1,8}|['\"]\s{0,8},\s{0,8}(?!b?['\"]-(?:-[a-z]|[a-z]['\"]))(?=b?['\"])))"
    rf"(?P<value>{_QUOTED}|[^\s'\"-]\S*)",
    re.IGNORECASE,
)
_ARGUMENT = re.compile(  # one in a list, which may contain spaces: ['--password=a b']
    rf"(?P<name>['\"]--?[\w-]{{0,64}}?{_WORD}[\w-]{{0,64}}=)(?P<value>[^'\"\n]+)",
    re.IGNORECASE,
)
_PAIR = re.compile(  # as in ("password", "a b")
    rf"(?P<name>[(\[]\s{{0,8}}b?['\"](?!-)[\w.-]{{0,64}}?(?:{_WORD}|authorization|signature|[-_]key)[\w.-]{{0,64}}['\"]"
    rf"\s{{0,8}},\s{{0,8}})(?P<value>{_QUOTED})(?=\s{{0,8}},?\s{{0,8}}[)\]])",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    rf"(?P<name>(?<![\w-]){_WORD}['\"]?\s{{1,8}}(?:is|was):?\s{{1,8}}"
    r"(?:now\s{1,8}|(?:set|changed|reset)\s{1,8}to\s{1,8})?)"
    rf"(?P<value>{_QUOTED}|\S+)",
    re.IGNORECASE,
)
_LITERAL = re.compile(_QUOTED, re.IGNORECASE)
_OPENING = re.compile(r"[bfru]{0,2}['\"]", re.IGNORECASE)
_EMPTY = r"None|null|nil|undefined|True|False|\*+|\.\.\.|''|\"\"|\(\)|\[\]|\{\}"
_NOTHING = re.compile(_EMPTY, re.IGNORECASE)
# Also words that follow "the password is" or "--password" in messages. Everything else may be the password.
_ORDINARY = re.compile(
    rf"{_EMPTY}|an?|all|already|also|always|and|are|as|at|being|blank|by|cannot|changed|correct|created|deprecated"
    r"|different|disabled|empty|entered|entirely|expired|for|found|from|given|in|incorrect|invalid|is|issued|malformed"
    r"|mandatory|missing|must|needed|needs|never|no|not|of|on|only|optional|or|out|provided|refused|rejected|removed"
    r"|required|requires|returned|revoked|set|short|similar|still|stored|supplied|that|the|to|too|unknown|unset"
    r"|unsupported|used|valid|was|weak|with|wrong",
    re.IGNORECASE,
)
# The beginning of a path up to a name in it. What follows "url: ", as in errors of urllib3, is no path of a file.
_PATH_BEFORE = re.compile(
    r"(?<![^\s'\"(\[<=,])(?<!url: )(?<!POST )(?<!GET )(?P<root>(?:~|\.{1,2})?/)?(?:[\w.+-]{1,64}/){0,32}\Z"
)
_PATH_AFTER = re.compile(r"(?![\w+-])(?>[\w./+-]*)(?![?=&@%#])")
_SUFFIX = re.compile(r"\.\w{1,8}\.?\Z")
_FRAME = re.compile(r"[\s|+-]*File \"[^\"]*\", line \d+")
_CREDENTIALS = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,32}://[^\s:/@'\"]{0,256}):[^\s'\"]+@", re.IGNORECASE
)
# a user name so long is a token, with or without a password after it
_TOKEN_AS_USER = re.compile(
    rf"(?P<scheme>\b[a-z][a-z0-9+.-]{{0,32}}://)[^\s:/@'\"]{{{TOKEN},}}(?=@|:[^\s/@'\"]*@)", re.IGNORECASE
)
_LINE_BREAK = re.compile(r"[\r\n]|\\[rn]")  # as it is, and as in a repr or in an .env file
_BEARER = re.compile(r"(?P<scheme>\b(?:bearer|basic)\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE)


def describe_failure(error: BaseException) -> dict[str, Any]:
    """Return type, message and traceback of a failure, redacted. Tracebacks hold no values of variables."""
    secrets = _all_secrets(error)
    lines = traceback.format_exception(error)
    return {
        "type": type(error).__name__,
        "message": redact(_text(error), secrets),
        "traceback": "".join(redact(line, secrets, source=True) for line in lines),
    }


def in_short(error: BaseException) -> str:
    """Return a failure in one line, with the file and the line, without secrets."""
    secrets = _all_secrets(error)
    if isinstance(error, OSError):
        reason = error.strerror
        return plain(redact(reason if type(reason) is str and reason else _text(error), secrets))
    text = redact(" ".join(f"{type(error).__name__}: {_text(error)}".split()), secrets)
    return plain(text if isinstance(error, SyntaxError) else text + _place(error))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"  # as in a traceback


def _place(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    return f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""


def message_of(error: BaseException) -> str:
    """Return the message of a failure without secrets. It may have several lines."""
    return redact(_text(error), _all_secrets(error))


def describe_briefly(error: BaseException) -> tuple[str, str]:
    """Return the type of a failure and the first line of its message, redacted and short."""
    lines = redact(_text(error), _all_secrets(error)).strip().splitlines() or [""]
    return type(error).__name__, lines[0][:BRIEF]


def redact(text: str, secrets: list[str], *, source: bool = False) -> str:
    """Replace secret values, ``password=…``, ``--password …``, "password is …" and credentials in URLs.

    ``source``: in lines of source code only literals are replaced, because ``token = read()`` shows no secret. The line
    of a traceback that names file, line and function is kept, and so are values that show nothing, such as ``None``.
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
    line = _TOKEN_AS_USER.sub(rf"\g<scheme>{SUBSTITUTE}", line)
    line = _CREDENTIALS.sub(rf"\g<scheme>:{SUBSTITUTE}@", line)
    for pattern, kept in (
        (_FLAG, _ORDINARY),
        (_ARGUMENT, _NOTHING),
        (_PAIR, _NOTHING),
        (_STATEMENT, _ORDINARY),
        (_ASSIGNMENT, _NOTHING),
    ):
        line = pattern.sub(partial(_hidden, kept=kept, in_source=in_source), line)
    return line


def _without(secret: str, line: str) -> str:
    """Replace a secret: anywhere if it is unmistakable, else only as a whole value or line, not in a word or a path.

    An unmistakable secret of fewer than 20 characters is kept if it is the whole name of a directory or a file in the
    path of a file, because a project may be called like its password. A longer one is replaced there too.
    """
    if secret not in line:
        return line
    if not _is_unmistakable(secret):
        before = r"(?:(?<![\w./-])|(?<=\\[rn]))"
        return re.sub(rf"{before}{re.escape(secret)}(?![\w/-]|\.\w)", SUBSTITUTE, line)
    if len(secret) >= TOKEN or not re.fullmatch(r"[\w.+-]+", secret):
        return line.replace(secret, SUBSTITUTE)
    return re.sub(re.escape(secret), _unless_in_path, line)


def _is_unmistakable(secret: str) -> bool:
    if len(secret) >= TOKEN:
        return "/" not in secret
    return len(secret) >= 8 and any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))


def _unless_in_path(match: re.Match[str]) -> str:
    """Keep a name in the path of a file: an absolute path, or a relative one that ends in a suffix such as ``.py``.

    "admin/hunter22" may be a user and a password, and the path of a URL may hold a token.
    """
    line, start, end = match.string, match.start(), match.end()
    before = _PATH_BEFORE.search(line, max(0, start - FURTHEST), start)
    after = _PATH_AFTER.match(line, end, end + FURTHEST)
    if before is None or after is None:
        return SUBSTITUTE
    return match[0] if before["root"] or _SUFFIX.search(after[0]) else SUBSTITUTE


def _hidden(match: re.Match[str], *, kept: re.Pattern[str], in_source: bool) -> str:
    """Replace the value of a match, unless it is a word to keep, or code without a literal."""
    value = match["value"]
    if kept.fullmatch(value) or kept.fullmatch(value.rstrip(".,;:!?)]}'\"")):
        return match[0]
    if in_source and not _is_in_literal(match):
        return match["name"] + _without_literals(value)
    return match["name"] + SUBSTITUTE


def _is_in_literal(match: re.Match[str]) -> bool:
    before = match.string[: match.start("value")]
    return before.count('"') % 2 == 1 or before.count("'") % 2 == 1


def _without_literals(value: str) -> str:
    """Replace a literal, or those in a tuple, list or dictionary."""
    if value[0] in "([{":
        return _LITERAL.sub(f"'{SUBSTITUTE}'", value)
    return SUBSTITUTE if _OPENING.match(value) else value


def _shortened(line: str) -> str:
    left_out = len(line) - LONGEST
    return f"{line[:LONGEST]}… ({left_out} characters more)" if left_out > 0 else line


def _all_secrets(error: BaseException) -> list[str]:
    """Return all secrets, the longest first, so that no part of one remains."""
    return sorted({*_secrets(), *_secrets_of_modules(error)}, key=len, reverse=True)


def _is_secret(name: str) -> bool:
    return HIDDEN.search(name) is not None and HARMLESS.fullmatch(name) is None


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _is_secret(name):
            yield from _forms(value)
    with contextlib.suppress(Exception):
        yield from _values(all_settings(), hidden=False, depth=0)


def _secrets_of_modules(error: BaseException) -> Iterator[str]:
    """Yield the secrets that modules had set before their import failed, such as half-read settings."""
    for one in _with_causes(error):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_name == "<module>":
                constants = {name: value for name, value in list(frame.f_globals.items()) if name.isupper()}
                yield from _values(constants, hidden=False, depth=0)


def _with_causes(error: BaseException) -> list[BaseException]:
    """Return a failure and those that it was raised from, or while they were handled: its text may quote them."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < MOST_CAUSES:
        one = waiting.pop()
        if one is not None and not any(one is other for other in found):
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found


def _values(value: Any, *, hidden: bool, depth: int) -> Iterator[str]:
    """Yield every string under a secret name. A value that cannot be read is passed over.

    Types are looked up by ``type``: `isinstance` asks a lazy object for its class, and so makes it evaluate itself.
    """
    if depth > DEEPEST:
        return
    kind = type(value)
    with contextlib.suppress(Exception):
        if issubclass(kind, Mapping):
            for key, inner in value.items():
                secret = hidden or (issubclass(type(key), str) and _is_secret(key))
                yield from _values(inner, hidden=secret and not _is_dotted(inner), depth=depth + 1)
        elif issubclass(kind, list | tuple | set | frozenset):
            for inner in value:
                yield from _values(inner, hidden=hidden and not _is_dotted(inner), depth=depth + 1)
        elif hidden and issubclass(kind, str | bytes | bytearray):
            yield from _forms(value)


def _forms(secret: str | bytes | bytearray) -> Iterator[str]:
    """Yield a secret in each form that a text may show: as it is, as in a repr, and its lines one by one."""
    if isinstance(secret, str):
        forms = (str.__str__(secret), repr(str.__str__(secret))[1:-1])
    else:
        forms = (secret.decode(errors="replace"), repr(bytes(secret))[2:-1])
    for form in forms:
        if len(form) >= SHORTEST:
            yield form
        lines = map(str.strip, _LINE_BREAK.split(form))
        yield from (line for line in lines if len(line) >= SHORTEST_LINE)


def _is_dotted(value: Any) -> bool:
    """Return whether a value is the name of a class, as in AUTHENTICATION_BACKENDS: that is not a secret.

    The names of modules are in lower case, and the parts of a token with dots are not, or are long and have digits.
    """
    if not issubclass(type(value), str):
        return False
    parts = value.split(".")
    return (
        len(parts) > 1
        and all(part.isidentifier() for part in parts)
        and all(part == part.lower() for part in parts[:-1])
        and not any(len(part) >= TOKEN and any(map(str.isdigit, part)) for part in parts)
    )
