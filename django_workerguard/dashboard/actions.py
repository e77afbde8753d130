"""The dashboard's actions: the request to the arbiter, and its progress until the outcome. Runs in the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from django.http import QueryDict

from django_workerguard.config.text import plain
from django_workerguard.dashboard.fragments import event_list, worst_of
from django_workerguard.report.findings import assess
from django_workerguard.report.outcome import PROGRESS, Event, Outcome, Recycle, Reload, outcome_of
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.control_client import ask
from django_workerguard.scoreboard.header import Header, LoadKind
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.values import value_class

MOST_EVENTS = 40  # shown
MOST_DIGITS = 18  # of a number in a URL
ENDED = "the server has ended, and another has been started since. It runs the present settings and code"


@value_class
class Action:
    """A request that was sent: what, for which slot and pid (0: none), after which event of which server.

    Its URL holds all of it. ``server``: when the server was started, in microseconds of Unix time; 0 is any.
    """

    do: str
    after: int
    slot: int = 0
    pid: int = 0
    server: int = 0

    @classmethod
    def of(cls, query: QueryDict) -> Action | None:
        """Read an action from a URL's query; None if it is not one."""
        values = [query.get(name, "0") for name in ("after", "slot", "pid", "server")]
        if query.get("do") not in ("reload", "recycle") or not all(
            value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS for value in values
        ):
            return None
        return cls(str(query["do"]), *map(int, values))

    @property
    def query(self) -> str:
        return f"do={self.do}&after={self.after}&slot={self.slot}&pid={self.pid}&server={self.server}"

    @property
    def arguments(self) -> Mapping[str, Any]:
        return {"slot": self.slot} if self.slot else {}


def refusal_of(board: Board, action: Action, user: str) -> str:
    """Send an action to the arbiter. Return the reason if it refused, else ""."""
    if board.path is None:
        return "the server has no run directory, so it cannot receive requests"
    try:
        response = ask(board.path.with_suffix(".sock"), action.do, **action.arguments, user=user)
    except OSError as error:
        return f"the arbiter did not answer: {error.strerror or error}"
    return "" if response.get("accepted") else str(response.get("reason"))


def progress(board: Board, action: Action) -> str:
    """Render the outcome of an action, or that it is still being carried out, and the events since."""
    if action.server not in (0, board.words[Header.STARTED_AT]):
        return _shown("critical", f"Error: {ENDED}", [], worst="critical", is_over=True)
    events = list(read_events(board, after=action.after))
    outcome = outcome_of(_follow(board, action), events)
    if outcome is not None:
        events = [event for event in events if event["number"] <= outcome.event["number"]]
    shown = [event for event in events if event["event"] in PROGRESS]
    worst = worst_of(assess(snapshot(board)))
    return _shown(*_verdict(action, outcome), shown[-MOST_EVENTS:], worst=worst, is_over=outcome is not None)


def _shown(kind: str, text: str, events: Sequence[Event], *, worst: str, is_over: bool) -> str:
    over = ' data-wg-over="yes"' if is_over else ""
    return (
        f'<p class="wg-verdict wg-{kind}" data-wg-say="{text}" data-wg-worst="{worst}"{over}>{text}</p>'
        f'<ol class="wg-happened">{event_list(events)}</ol>'
    )


def _follow(board: Board, action: Action) -> Callable[[Event], Outcome | None]:
    load = LoadKind.NAMES[min(board.words[Header.LOAD], len(LoadKind.NAMES) - 1)]
    if action.do == "reload":
        return Reload(load).take
    return Recycle(load, {action.slot: action.pid} if action.pid else {}).take


def _verdict(action: Action, outcome: Outcome | None) -> tuple[str, str]:
    if outcome is None:
        return "notice", f"{action.do}: accepted, and in progress."
    if outcome.kind == "done":
        return "well", outcome.text
    return "critical", f"Error: {escape(plain(outcome.text))}"
