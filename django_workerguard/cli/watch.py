"""Live screen of ``workerguard status --watch``, with the extra ``rich``. Runs in a process of its own, without Django."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from django_workerguard.config.text import plain
from django_workerguard.report.findings import assess
from django_workerguard.report.groups import grouped
from django_workerguard.report.status_text import fitting
from django_workerguard.report.tables import COLUMNS, columns, headlines, row

STATES = {
    "ready": "green",
    "loading": "yellow",
    "retiring": "cyan",
    "back-off": "bold red",
    "unloaded": "bold red",
    "empty": "bold red",
}
SEVERITIES = {"critical": "bold red", "warning": "yellow", "notice": "dim"}
NUMBERS = ("SLOT", "GEN", "REQUESTS", "5XX", "IN FLIGHT", "MEMORY", "LOAD", "NEXT TRY")
RECENT = "LAST 15 MIN"  # requests, one bar a minute
MINUTES = 15

Snapshot = Mapping[str, Any]
Lines = Mapping[int, str]  # the sparkline of each slot


def watch(
    read: Callable[[], Sequence[tuple[Snapshot, Lines]]], every: float, console: Console | None = None
) -> None:
    """Show the servers that ``read`` returns, every ``every`` seconds, until an interrupt or an exception of ``read``."""
    console = console or Console()
    with Live(screen(read(), console), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(screen(read(), console), refresh=True)


def screen(servers: Sequence[tuple[Snapshot, Lines]], console: Console) -> Group:
    """Lay out the servers for this terminal. If not everything fits, the problems are kept."""
    height = max(1, console.height // max(1, len(servers)))
    return Group(*(part for shot, lines in servers for part in _server(shot, lines, console, height)))


def _server(shot: Snapshot, lines: Lines, console: Console, height: int) -> list[RenderableType]:
    groups = grouped(assess(shot))
    worst = SEVERITIES[groups[0].severity] if groups else "green"
    first, *rest = (plain(line) for line in headlines(shot))
    head, details = [Text(first, style=worst)], [Text(line, style="dim") for line in rest]
    for group in groups:
        text = Text(plain(f"{group.severity}: {group.text}"), style=SEVERITIES[group.severity])
        if _lines([*head, text, *details], console) > max(4, height // 2):
            break
        head.append(text)
    head += details
    # three lines are for the table's header, the line about slots that are left out, and a gap
    room = max(3, height - _lines(head, console) - 3)
    slots = shot["slots"]
    if len(slots) > room:
        slots = sorted(slots, key=lambda slot: slot["state"] == "ready")[:room]
    left_out = len(shot["slots"]) - len(slots)
    more = [Text(f"… and {left_out} more slots", style="dim")] if left_out else []
    return [*head, _table(shot, slots, lines, console), *more, Text()]


def _lines(texts: Iterable[Text], console: Console) -> int:
    return sum(len(text.wrap(console, console.width)) for text in texts)


def _table(shot: Snapshot, slots: Sequence[Mapping[str, Any]], lines: Lines, console: Console) -> Table:
    rows = [row(slot, shot["at"]) for slot in slots]
    more = max(len(RECENT), MINUTES) if any(lines.values()) else 0
    shown = fitting(columns(shot), rows, console.width, more=more)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index in shown:
        justify: JustifyMethod = "right" if COLUMNS[index] in NUMBERS else "left"
        table.add_column(columns(shot)[index], justify=justify, no_wrap=True)
    if more:
        table.add_column(RECENT, no_wrap=True)
    for slot, cells in zip(slots, rows, strict=True):
        texts = {COLUMNS[index]: Text(plain(cells[index])) for index in shown}
        texts["STATE"].stylize(STATES.get(slot["state"].replace("_", "-"), ""))
        if slot["errors_5xx"] and "5XX" in texts:
            texts["5XX"].stylize("red")
        table.add_row(*texts.values(), *([Text(lines.get(slot["slot"], ""), style="cyan")] if more else []))
    return table
