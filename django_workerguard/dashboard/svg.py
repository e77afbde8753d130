"""Drawings of the dashboard, as SVG and tables: the last hour, and the steps of a load. Pure.

They are built without templates and have no style, for the same reasons as `fragments`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from django_workerguard.config.text import in_megabytes, plain
from django_workerguard.report.rates import Rate
from django_workerguard.report.tables import utc
from django_workerguard.report.timeline import SERVER, WINDOW, Life, Mark, Timeline
from django_workerguard.values import value_class

SHORTEST = 300.0  # seconds that a drawing shows at least
WIDTH = 1000.0  # units of the drawings
LABEL = 44.0  # units for the names of the slots
ROW = 14.0
MOST_MARKS = 400
GRAVE = (
    "failed",
    "died",
    "frozen",
    "aborted",
    "reload",
)  # drawn before recycling if there are too many marks
LIVES_SHOWN = 50
# each state has its own place and height in its row, so that colour is not the only difference
SHAPES = {"loading": (2.5, 2.5), "ready": (0.0, 5.0), "retiring": (0.0, 2.0), "back-off": (1.75, 1.5)}
LEGEND = tuple(SHAPES)
MARKS = {"failed": "×", "died": "†", "recycled": "↻", "aborted": "!", "reload": "⟳", "frozen": "❄"}


@value_class
class Axis:
    """The time range that a drawing shows."""

    now: float  # Unix seconds, its right end
    window: float  # seconds

    @classmethod
    def since(cls, started: float, now: float, *, longest: float = WINDOW) -> Axis:
        """Return the axis of the last hour, or ``longest`` seconds, or of the server's life if that is shorter."""
        return cls(now, min(longest, max(SHORTEST, now - started)))

    @property
    def first(self) -> float:
        return self.now - self.window

    def x(self, at: float) -> float:
        return LABEL + (WIDTH - LABEL) * max(0.0, min(1.0, (at - self.first) / self.window))

    def ticks(self) -> Iterator[float]:
        """Yield the round times to label."""
        every = next(step for step in (10, 60, 120, 300, 600) if self.window / step <= 8)
        at = self.now - self.now % every
        while at > self.first:
            yield at
            at -= every


def history(timeline: Timeline, bars: Bars, slots: Sequence[int], rates: Sequence[Rate], axis: Axis) -> str:
    """Render the time of the axis: the rates, the life of every slot, and the latest lives as a table."""
    legend = "".join(_key(name, place, height) for name, (place, height) in SHAPES.items())
    signs = "".join(f"<li>{sign} {name}</li>" for name, sign in MARKS.items())
    return (
        f"{_rates(rates, axis)}{_lives(timeline, bars, slots, axis)}"
        f'<ul class="wg-legend">{legend}{signs}</ul>{_latest_lives(timeline)}'
    )


def _key(name: str, place: float, height: float) -> str:
    bar = f'<rect class="wg-bar-{name}" x="0" y="{place:g}" width="14" height="{height:g}"/>'
    return f'<li><svg class="wg-key" width="14" height="5" viewBox="0 0 14 5" aria-hidden="true">{bar}</svg> {name}</li>'


def _lives(timeline: Timeline, bars: Bars, slots: Sequence[int], axis: Axis) -> str:
    rows = {slot: row for row, slot in enumerate((SERVER, *slots))}
    height = ROW * len(rows) + 16
    names = [
        f'<text x="0" y="{row * ROW + 10:g}">{f"slot {slot}" if slot else "server"}</text>'
        for slot, row in rows.items()
    ]
    names.append(f'<text x="0" y="{ROW * len(rows) + 12:g}">UTC</text>')
    marks, left_out = _marks(timeline, rows, axis)
    drawing = "".join((*_ticks(axis, ROW * len(rows)), bars.draw(timeline, rows, axis), *marks))
    note = (
        f'<p class="wg-quiet">{left_out} more marks are not drawn. See workerguard events.</p>'
        if left_out
        else ""
    )
    return (
        '<div class="wg-scroll" id="wg-scroll" tabindex="0" role="region" aria-label="Timeline"><div class="wg-rows">'
        f'<svg class="wg-names" width="{LABEL:g}" height="{height:g}" viewBox="0 0 {LABEL:g} {height:g}" aria-hidden="true">'
        f'{"".join(names)}</svg><svg class="wg-lives" width="{WIDTH - LABEL:g}" height="{height:g}" '
        f'viewBox="{LABEL:g} 0 {WIDTH - LABEL:g} {height:g}" role="img" '
        f'aria-label="The life of every slot. The list and the table below have the events and the lives.">{drawing}</svg></div></div>{note}'
    )


def _ticks(axis: Axis, height: float) -> Iterator[str]:
    for at in axis.ticks():
        x = axis.x(at)
        yield f'<line class="wg-grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height:g}"/>'
        form = "%H:%M" if axis.window > SHORTEST else "%H:%M:%S"
        place = " wg-last" if x > WIDTH - 16 else ""
        yield f'<text class="wg-hour{place}" x="{x:.1f}" y="{height + 12:g}">{_clock(at, form=form)}</text>'


def _clock(at: float, *, form: str = "%H:%M") -> str:
    return utc(at).strftime(form)


class Bars:
    """Draws lives and waits. A life that has ended is drawn only once; SVG moves it as time passes.

    Coordinates are seconds after ``base``. The view box of the drawing selects the visible range.
    """

    def __init__(self, base: float) -> None:
        self._base = base
        self._rows: Mapping[int, int] = {}
        self._drawn: dict[Life, Sequence[tuple[str, str]]] = {}

    def draw(self, timeline: Timeline, rows: Mapping[int, int], axis: Axis) -> str:
        """Return a drawing of the range of the axis."""
        if rows != self._rows:
            self._rows, self._drawn = dict(rows), {}
        self._drawn = {
            life: self._drawn.get(life) or self._life(life, axis)
            for life in timeline.lives
            if life.slot in rows
        }
        paths: dict[str, list[str]] = {kind: [] for kind in LEGEND}
        for wait in timeline.waits:
            if wait.slot in rows:
                until = min(wait.until, axis.now)
                paths["back-off"].append(self._bar(wait.slot, 0, wait.begun, until, axis, kind="back-off"))
        for drawn in self._drawn.values():
            for kind, path in drawn:
                paths[kind].append(path)
        for life in [life for life in self._drawn if life.ended is None]:
            del self._drawn[life]
        height = ROW * len(rows)
        drawing = "".join(f'<path class="wg-bar-{kind}" d="{"".join(d)}"/>' for kind, d in paths.items())
        return (
            f'<svg x="{LABEL:g}" y="0" width="{WIDTH - LABEL:g}" height="{height:g}" preserveAspectRatio="none" '
            f'viewBox="{axis.first - self._base:.1f} 0 {axis.window:.1f} {height:g}">{drawing}</svg>'
        )

    def _life(self, life: Life, axis: Axis) -> Sequence[tuple[str, str]]:
        return [
            (kind, self._bar(life.slot, life.lane, start, end, axis, kind=kind))
            for kind, start, end in life.spans(axis.now)
        ]

    def _bar(self, slot: int, lane: int, start: float, end: float, axis: Axis, *, kind: str) -> str:
        start = max(start, axis.first - WINDOW)  # a life may have begun long before the range
        width = max(end - start, 0.8)
        place, height = SHAPES[kind]
        top = self._rows[slot] * ROW + 1 + lane * 6 + place
        return f"M{start - self._base:.1f} {top:g}h{width:.1f}v{height:g}h-{width:.1f}z"


def _marks(timeline: Timeline, rows: Mapping[int, int], axis: Axis) -> tuple[list[str], int]:
    """Return the drawn marks, and the number of marks that were left out.

    Several marks of the same kind at the same place become a single mark. Grave marks come first, then late ones.
    """
    merged: dict[tuple[int, int, str], tuple[int, Mark]] = {}
    scale, first = (WIDTH - LABEL) / axis.window / 4, axis.first
    for mark in reversed(timeline.marks):
        if mark.at >= first and mark.slot in rows:
            key = (mark.slot, int(LABEL / 4 + (min(mark.at, axis.now) - first) * scale), mark.kind)
            times, last = merged.get(key, (0, mark))
            merged[key] = times + 1, last
    chosen = list(merged.items())
    if len(chosen) > MOST_MARKS:
        chosen.sort(key=lambda item: item[0][2] not in GRAVE)  # stable: the latest of each first
    left_out = sum(times for _, (times, _) in chosen[MOST_MARKS:])
    return [
        _mark(last, times, fourth=fourth, row=rows[slot])
        for (slot, fourth, _), (times, last) in chosen[:MOST_MARKS]
    ], left_out


def _mark(last: Mark, times: int, *, fourth: int, row: int) -> str:
    many = f"{times} times, last: " if times > 1 else ""
    return (
        f'<text class="wg-mark wg-mark-{last.kind}" x="{fourth * 4}" y="{row * ROW + 10:g}">{MARKS[last.kind]}'
        f"<title>{many}{escape(plain(last.text))}</title></text>"
    )


def _latest_lives(timeline: Timeline) -> str:
    """Render the latest lives of the drawing as a table, for screen readers."""
    rows = "".join(
        f"<tr><td>{life.slot}</td><td>{life.pid}</td><td>{life.generation}</td>"
        + "".join(
            f"<td>{_clock(at, form='%H:%M:%S') if at is not None else '–'}</td>" for at in _moments(life)
        )
        + "</tr>"
        for life in timeline.lives[: -LIVES_SHOWN - 1 : -1]
    )
    table = _table("lives", "slot pid generation spawned ready retiring ended", rows)
    return f'<details id="wg-latest-lives"><summary id="wg-lives-summary">The latest lives</summary>{table}</details>'


def _moments(life: Life) -> tuple[float | None, ...]:
    return life.spawned, life.ready, life.retiring, life.ended


def _table(noun: str, columns: str, rows: str) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns.split())
    return (
        f'<div class="wg-scroll"><table class="wg-events"><caption>The latest {noun}, in UTC</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _rates(rates: Sequence[Rate], axis: Axis) -> str:
    height = 60.0
    visible = [rate for rate in rates if rate.at >= axis.first]
    most = max((rate.requests for rate in visible), default=0.0)
    top = most or 1.0
    across = [f"{axis.x(rate.at):.1f}" for rate in visible]

    def points(values: Iterable[float]) -> str:
        return " ".join(
            f"{x},{height - height * value / top:.1f}" for x, value in zip(across, values, strict=True)
        )

    last = visible[-1] if visible else Rate(axis.now, 0.0, 0.0)
    text = f"{last.requests:.1f} requests/s now, {last.errors:.1f} of them 5xx; maximum {most:.1f}"
    return (
        f'<figure class="wg-rates"><figcaption>{text}</figcaption>'
        f'<svg width="{WIDTH:g}" height="{height + 2:g}" viewBox="0 0 {WIDTH:g} {height + 2:g}" preserveAspectRatio="none" role="img" aria-label="Requests and errors per second: {text}">'
        f'<polyline class="wg-line-requests" points="{points(rate.requests for rate in visible)}"/>'
        f'<polyline class="wg-line-errors" points="{points(rate.errors for rate in visible)}"/></svg></figure>'
    )


def waterfall(steps: Sequence[Mapping[str, Any]]) -> str:
    """Render the steps of a load, one below the other. Each begins where the step before it ended."""
    total = sum(float(step["seconds"]) for step in steps)
    if not total:
        return ""
    begun, rows, parts = 0.0, len(steps), []
    for row, step in enumerate(steps):
        x, y = 300 + 600 * begun / total, row * 18
        begun += float(step["seconds"])
        memory = in_megabytes(step["retained_bytes"], digits=1, sign="+")
        parts.append(
            f'<text x="0" y="{y + 12}">{escape(plain(str(step["name"])))}</text>'
            f'<rect class="wg-bar-loading" x="{x:.1f}" y="{y + 2}" width="{max(600 * step["seconds"] / total, 1):.1f}" '
            f'height="13"/><text x="{WIDTH:g}" y="{y + 12}" class="wg-right">{step["seconds"] * 1000:.0f} ms, {memory}</text>'
        )
    return (
        f'<svg class="wg-waterfall" width="{WIDTH:g}" height="{rows * 18}" viewBox="0 0 {WIDTH:g} {rows * 18}" role="img" '
        f'aria-label="The load\'s steps">{"".join(parts)}</svg>'
    )
