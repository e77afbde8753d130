"""The journal: the last 10,000 events, oldest first. The arbiter writes it; any process reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django_workerguard.scoreboard.board import READ_ATTEMPTS, Board
from django_workerguard.scoreboard.header import WORD, Header
from django_workerguard.scoreboard.layout import EVENT_WORDS, EVENTS

LATEST = 253402300800  # Unix seconds: the year 10000, which datetime does not support
ROOM = (EVENT_WORDS - 2) * WORD


def write_event(board: Board, event: dict[str, Any], *, number: int | None = None) -> None:
    """Append an event; a text or a list of texts that does not fit is shortened, numbers and names are not.

    ``number``: the writer's own count of earlier events, if it has one, because a defective worker may have overwritten
    the count on the board.
    """
    number = board.words[Header.EVENTS] if number is None else number
    start = board.layout.event(number % EVENTS)
    data = _encode(event)
    board.words[start] = 0
    board.words[start + 1] = len(data)
    board.write_bytes(start + 2, data)
    board.words[start] = number + 1
    board.words[Header.EVENTS] = number + 1


def read_events(board: Board, *, after: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the events whose ``number`` (from 1) is greater than ``after`` and that are still there, oldest first."""
    written = board.words[Header.EVENTS]
    for number in range(max(after, written - EVENTS), written):
        event = _read(board, number)
        if event is not None:
            yield event


def _read(board: Board, number: int) -> dict[str, Any] | None:
    start = board.layout.event(number % EVENTS)
    for _ in range(READ_ATTEMPTS):
        if board.words[start] != number + 1:
            return None  # overwritten by a newer event
        length = min(board.words[start + 1], ROOM)
        data = board.read_bytes(start + 2, length)
        if board.words[start] == number + 1:
            try:
                event = {**json.loads(data), "number": number + 1}
                return event if 0 <= event["at"] < LATEST else None
            except (ValueError, TypeError, KeyError, RecursionError):
                return None  # a defective worker has overwritten it
    return None


def _encode(event: dict[str, Any]) -> bytes:
    data = json.dumps(event, separators=(",", ":")).encode()
    limit = 160
    while len(data) > ROOM and limit > 0:
        short = {key: _shortened(value, limit) for key, value in event.items()}
        data = json.dumps(short, separators=(",", ":")).encode()
        limit //= 2
    return (
        data
        if len(data) <= ROOM
        else json.dumps({"at": event.get("at"), "event": str(event.get("event"))[:40]}).encode()
    )


def _shortened(value: Any, limit: int) -> Any:
    """Return the first ``limit`` characters of a text; of a list the first texts, and how many more there are."""
    if isinstance(value, str):
        return value[:limit] + "…" if len(value) > limit else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return value
    room = limit
    kept: list[str] = []
    for item in value:
        if room < len(item) and kept:
            break
        kept.append(_shortened(item, limit))
        room -= len(item)
    left_out = len(value) - len(kept)
    return [*kept, f"and {left_out} more"] if left_out else kept
