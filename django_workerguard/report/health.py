"""Answers of the health URLs. Pure."""

from __future__ import annotations

import json
from typing import Literal

from django_workerguard.report.verdict import judge
from django_workerguard.scoreboard.header import Vitals
from django_workerguard.values import value_class

ProbeKind = Literal["live", "ready", "startup"]
KINDS: tuple[ProbeKind, ...] = ("live", "ready", "startup")
RETRY_AFTER = 2

REASONS = {200: "OK", 499: "Client Closed Request"}


@value_class
class Answer:
    """An HTTP answer: status code, headers and body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def reason(self) -> str:
        return REASONS.get(self.status, "Service Unavailable")


def wants_json(accept: str, *, format: str = "") -> bool:
    """Return whether the client wants JSON, by the header ``Accept`` or the query parameter ``format``."""
    return "application/json" in accept or format == "json"


def bears_token(authorization: str, token: str) -> bool:
    """Return whether the header ``Authorization`` has this token, compared in constant time; False without a token."""
    if not authorization or not token:
        return False
    from hmac import compare_digest  # imported late: it would cost the arbiter a megabyte

    scheme, _, given = authorization.partition(" ")
    same = compare_digest(given.strip().encode(errors="replace"), token.encode())
    return same and scheme.lower() == "bearer"


def answer(
    kind: ProbeKind, vitals: Vitals | None, *, loaded: bool | None, now: float, as_json: bool, detailed: bool
) -> Answer:
    """Answer one probe: 200, or 503 with Retry-After. The reason is left out unless ``detailed``."""
    ok, reason = judge(kind, vitals, loaded=loaded, now=now)
    word = "ok" if ok else "unavailable"
    if as_json:
        content = {"status": word, "detail": reason} if detailed else {"status": word}
        body, mime = json.dumps(content) + "\n", "application/json"
    else:
        body, mime = (f"{word}: {reason}\n" if detailed else f"{word}\n"), "text/plain; charset=utf-8"
    return respond(200 if ok else 503, body, mime)


def respond(status: int, body: str, mime: str, *, retry_after: int = RETRY_AFTER) -> Answer:
    """Return an answer that no cache keeps; a 503 has a Retry-After."""
    data = body.encode()
    headers = [("Content-Type", mime), ("Content-Length", str(len(data))), ("Cache-Control", "no-store")]
    if status == 503:
        headers.append(("Retry-After", str(retry_after)))
    return Answer(status, tuple(headers), data)
