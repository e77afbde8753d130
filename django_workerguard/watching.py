"""``workerguard status --watch`` on a terminal: the table, live. Needs the extra ``rich``.

Runs in a process of its own, without Django.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from django_workerguard.report.assess import assess
from django_workerguard.report.table import COLUMNS, headlines, plain, row

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

Snapshot = Mapping[str, Any]


def watch(look: Callable[[], Sequence[Snapshot]], every: float, console: Console | None = None) -> None:
    """Show what each look finds, until somebody interrupts or a look raises."""
    console = console or Console()
    with Live(_screen(look()), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every)
            live.update(_screen(look()), refresh=True)


def _screen(shots: Sequence[Snapshot]) -> Group:
    return Group(*(part for shot in shots for part in (*_server(shot), Text())))


def _server(shot: Snapshot) -> list[Any]:
    found = assess(shot)
    worst = SEVERITIES[found[0].severity] if found else "green"
    first, *rest = (plain(line) for line in headlines(shot))
    findings = [
        Text(plain(f"{finding.severity}: {finding.text}"), style=SEVERITIES[finding.severity])
        for finding in found
    ]
    return [Text(first, style=worst), *(Text(line, style="dim") for line in rest), _table(shot), *findings]


def _table(shot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for slot in shot["slots"]:
        cells = [Text(plain(cell)) for cell in row(slot, shot["at"])]
        cells[1].stylize(STATES.get(slot["state"].replace("_", "-"), ""))
        if slot["errors_5xx"]:
            cells[6].stylize("red")
        table.add_row(*cells)
    return table
