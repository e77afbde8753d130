"""Live screen of ``workerguard status --watch``, with the extra ``rich``. Runs in a process of its own, without Django."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from django_workerguard.config.text import plain
from django_workerguard.report.findings import assess
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
# the columns to leave out on a narrow terminal, in this order
DISPENSABLE = ("LOAD", "RELEASE", "IN FLIGHT", "GEN", "MEMORY", "REQUESTS", "FOR", "5XX", "PID")

Snapshot = Mapping[str, Any]


def watch(read: Callable[[], Sequence[Snapshot]], every: float, console: Console | None = None) -> None:
    """Show the servers that ``read`` returns, every ``every`` seconds, until an interrupt or an exception of ``read``."""
    console = console or Console()
    with Live(screen(read(), console), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(screen(read(), console), refresh=True)


def screen(shots: Sequence[Snapshot], console: Console) -> Group:
    """Lay out the servers for this terminal. If not everything fits, the problems are kept."""
    height = max(1, console.height // max(1, len(shots)))
    return Group(*(part for shot in shots for part in _server(shot, console, height)))


def _server(shot: Snapshot, console: Console, height: int) -> list[RenderableType]:
    findings = assess(shot)
    worst = SEVERITIES[findings[0].severity] if findings else "green"
    first, *rest = (plain(line) for line in headlines(shot))
    head = [Text(first, style=worst), *(Text(line, style="dim") for line in rest)]
    for finding in findings:
        text = Text(plain(f"{finding.severity}: {finding.text}"), style=SEVERITIES[finding.severity])
        if _lines([*head, text], console) > max(4, height // 2):
            break
        head.append(text)
    # three lines are for the table's header, the line about slots that are left out, and a gap
    room = max(3, height - _lines(head, console) - 3)
    slots = shot["slots"]
    if len(slots) > room:
        slots = sorted(slots, key=lambda slot: slot["state"] == "ready")[:room]
    left_out = len(shot["slots"]) - len(slots)
    more = [Text(f"… and {left_out} more slots", style="dim")] if left_out else []
    return [*head, _table(shot, slots, console), *more, Text()]


def _lines(texts: Iterable[Text], console: Console) -> int:
    return sum(len(text.wrap(console, console.width)) for text in texts)


def _table(shot: Snapshot, slots: Sequence[Mapping[str, Any]], console: Console) -> Table:
    unlimited = console.options.update(width=10_000)
    names = list(COLUMNS)
    for dispensable in (*DISPENSABLE, ""):
        table = _with(names, shot, slots)
        if not dispensable or console.measure(table, options=unlimited).maximum <= console.width:
            break
        names.remove(dispensable)
    return table


def _with(names: Sequence[str], shot: Snapshot, slots: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = dict(zip(COLUMNS, columns(shot), strict=True))
    for name in names:
        table.add_column(headings[name], justify="right" if name in NUMBERS else "left", no_wrap=True)
    for slot in slots:
        cells = {name: Text(plain(cell)) for name, cell in zip(COLUMNS, row(slot, shot["at"]), strict=True)}
        cells["STATE"].stylize(STATES.get(slot["state"].replace("_", "-"), ""))
        if slot["errors_5xx"]:
            cells["5XX"].stylize("red")
        table.add_row(*(cells[name] for name in names))
    return table
