"""The text of ``workerguard status``: the state, the findings, and a table of the slots that fits the terminal. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django_workerguard.config.text import plain
from django_workerguard.report.findings import assess
from django_workerguard.report.groups import grouped
from django_workerguard.report.tables import COLUMNS, aligned, columns, headlines, row

Paint = Callable[[str, str], str]


def table(snapshot: Mapping[str, Any], *, width: int | None = None, colour: bool = False) -> str:
    """Render ``workerguard status``: the state, the findings, then every slot.

    ``width``: the columns of the terminal, which lines are to fit; None leaves them as long as they are. ``colour`` adds
    the escape sequences of a terminal.
    """
    groups = grouped(assess(snapshot))
    paint: Paint = _painted if colour else lambda text, _: text
    first, *rest = headlines(snapshot)
    lines = [*_wrapped(first, width, paint, groups[0].severity if groups else "well")]
    for group in groups:
        lines += _wrapped(f"{group.severity}: {group.text}", width, paint, group.severity)
    for line in rest:
        lines += _wrapped(line, width, paint, "")
    rows = [row(slot, snapshot["at"]) for slot in snapshot["slots"]]
    shown = fitting(columns(snapshot), rows, width)
    heads, *below = aligned([[cells[index] for index in shown] for cells in (columns(snapshot), *rows)])
    states = (str(slot["state"]).replace("_", "-") for slot in snapshot["slots"])
    lines += ["", heads, *(paint(plain(line), state) for line, state in zip(below, states, strict=True))]
    return "\n".join(lines)


# the columns to leave out on a narrow terminal, in this order
DISPENSABLE = ("RELEASE", "LOAD", "GEN", "IN FLIGHT", "MEMORY", "REQUESTS", "FOR", "5XX", "PID")
GAP = 2  # columns between two of the table


def fitting(
    names: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, *, more: int = 0
) -> list[int]:
    """Return the indices of the columns that fit a width: first those without any value go, then the dispensable ones.

    ``more``: the width of a further column that takes part.
    """
    sizes = [max(map(len, (name, *(cells[index] for cells in rows)))) for index, name in enumerate(names)]
    shown = list(range(len(names)))
    empty = [index for index in shown if all(cells[index] == "-" for cells in rows)]
    for index in (*empty, *map(COLUMNS.index, DISPENSABLE)):
        total = sum(sizes[one] + GAP for one in shown) - GAP + (more + GAP if more else 0)
        if width is None or total <= width:
            break
        if index in shown:
            shown.remove(index)
    return shown


COLOURS = {
    "critical": "1;31",
    "warning": "33",
    "notice": "2",
    "well": "32",
    "loading": "33",
    "retiring": "36",
    "back-off": "31",
    "no-room": "31",
    "unloaded": "31",
    "empty": "31",
}


def _painted(text: str, kind: str) -> str:
    return f"\033[{COLOURS[kind]}m{text}\033[0m" if kind in COLOURS else text


def _wrapped(text: str, width: int | None, paint: Paint, kind: str) -> list[str]:
    if width is None:
        return [paint(plain(text), kind)]
    lines = textwrap.wrap(plain(text), max(20, width), subsequent_indent="  ", break_on_hyphens=False)
    return [paint(line, kind) for line in lines]


BARS = "▁▂▃▄▅▆▇█"


def bars(values: Sequence[float | None]) -> str:
    """Return a sparkline of characters; a blank for a value that is not known."""
    top = max((value for value in values if value is not None), default=0) or 1
    return "".join(
        " " if value is None else BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in values
    )
