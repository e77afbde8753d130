"""The parts of the dashboard that are fetched again and again, as HTML. Pure.

Written by hand and not by templates: at 64 slots these must cost a worker less than five
milliseconds. No style and no script in them, so that a strict Content-Security-Policy holds:
what lies where is said in SVG's own attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from django_workerguard.report.assess import Finding, assess
from django_workerguard.report.rates import Rate
from django_workerguard.report.table import event_line, headlines, plain, span
from django_workerguard.report.timeline import SERVER, WINDOW, Life, Mark, Timeline

Snapshot = Mapping[str, Any]

SHORTEST = 300.0  # seconds that are shown at least
WIDTH = 1000.0  # units of the drawings
LABEL = 44.0  # of them for the slots' names
ROW = 14.0
MOST_MARKS = 400  # the latest
EVENTS_SHOWN = 50
LEGEND = ("loading", "ready", "retiring", "back-off")
REQUESTS = ("requests", "in flight", "5xx")
TASKS = ("tasks", "running", "failed")
MARKS = {"failed": "×", "died": "†", "recycled": "↻", "aborted": "!", "reload": "⟳", "frozen": "❄"}


def tiles(shot: Snapshot, slot_url: str) -> str:
    """Render how the server stands: its headlines, what is wrong, and a tile a slot.

    ``slot_url`` is the address of slot 0's page.
    """
    found = assess(shot)
    worst = found[0].severity if found else "well"
    first, second = (escape(plain(line)) for line in headlines(shot))
    findings = "".join(_finding(finding, slot_url) for finding in found)
    shown = "".join(_tile(slot, shot["at"], slot_url) for slot in shot["slots"])
    return (
        f'<p class="wg-headline wg-{worst}" role="status" data-wg-events="{shot["events"]}">{first}</p><p class="wg-quiet">{second}'
        f'{_release(shot)}</p><ul class="wg-findings">{findings}</ul><ol class="wg-tiles">{shown}</ol>'
    )


def pool_tiles(shot: Snapshot) -> str:
    """Render how a pool of Celery's stands: as a server, but without pages of its slots."""
    found = assess(shot)
    worst = found[0].severity if found else "well"
    first, second = (escape(plain(line)) for line in headlines(shot))
    findings = "".join(_finding(finding, "") for finding in found)
    shown = "".join(_tile(slot, shot["at"], "", of=TASKS) for slot in shot["slots"])
    return (
        f'<section class="wg-pool"><h2>Celery: {escape(plain(shot["name"]))}</h2>'
        f'<p class="wg-headline wg-{worst}">{first}</p><p class="wg-quiet">{second}{_release(shot)}</p>'
        f'<ul class="wg-findings">{findings}</ul><ol class="wg-tiles">{shown}</ol></section>'
    )


def _finding(finding: Finding, slot_url: str) -> str:
    text = escape(plain(finding.text))
    if finding.slot is not None and slot_url:
        text = f'<a href="{_slot_address(slot_url, finding.slot)}">{text}</a>'
    return f'<li class="wg-{finding.severity}"><strong>{finding.severity}</strong> {text}</li>'


def _release(shot: Snapshot) -> str:
    return f"; release {escape(plain(shot['release']))}" if shot["release"] else ""


def _tile(slot: Mapping[str, Any], now: float, slot_url: str, of: tuple[str, str, str] = REQUESTS) -> str:
    number = slot["slot"]
    state = slot["state"].replace("_", "-")
    age = span(now - slot["since"]) if slot["since"] else "–"
    requests, errors = slot["requests"], slot["errors_5xx"]
    rate = f"{100 * errors / requests:.1f} %" if requests else "–"
    memory = f"{slot['rss_bytes'] / 1048576:.0f} MB" if slot["rss_bytes"] else "–"
    load = f"{slot['load_seconds']:.2f} s" if slot["load_seconds"] is not None else "–"
    pid = f"pid {slot['pid']}" if slot["pid"] else "no process"
    if slot["successor"]:
        pid += f", successor {slot['successor']}"
    if slot["next_try_in"] is not None:
        pid += f", next try in {slot['next_try_in']:.0f} s"
    error = slot["last_error"]
    why = (
        f'<p class="wg-why">{escape(plain(str(error.get("type"))))}</p>' if error and slot["failures"] else ""
    )
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in (
            ("generation", slot["generation"]),
            ("release", escape(plain(slot["release"])) or "–"),
            (of[0], requests),
            (of[1], slot["in_flight"]),
            (of[2], f"{errors} ({rate})"),
            ("memory", memory),
            ("load", load),
        )
    )
    suspect = ' <span class="wg-warning">suspect</span>' if slot["suspect"] else ""
    name = f"Slot {number}"
    if slot_url:
        name = f'<a id="wg-slot-{number}" href="{_slot_address(slot_url, number)}">{name}</a>'
    return (
        f'<li class="wg-tile wg-{state}"><h3>{name} <span class="wg-state">{state}</span>{suspect}</h3>'
        f'<p class="wg-quiet">for {age}; {pid}</p><dl>{facts}</dl>{why}</li>'
    )


def _slot_address(slot_url: str, number: int) -> str:
    before, _, after = slot_url.rpartition("/0/")
    return escape(f"{before}/{number}/{after}")


# the last hour


@dataclass(frozen=True)
class Axis:
    """Which stretch of time a drawing shows."""

    now: float  # Unix seconds, its right end
    window: float  # seconds

    @classmethod
    def since(cls, started: float, now: float) -> Axis:
        """Show the last hour; of a younger server its life."""
        return cls(now, min(WINDOW, max(SHORTEST, now - started)))

    @property
    def first(self) -> float:
        return self.now - self.window

    def x(self, at: float) -> float:
        return LABEL + (WIDTH - LABEL) * max(0.0, min(1.0, (at - self.first) / self.window))

    def ticks(self) -> Iterator[float]:
        """Yield the round times to write below it."""
        every = next(step for step in (60, 120, 300, 600) if self.window / step <= 8)
        at = self.now - self.now % every
        while at > self.first:
            yield at
            at -= every


def history(line: Timeline, bars: Bars, slots: Sequence[int], found: Sequence[Rate], axis: Axis) -> str:
    """Render what was: the rates, the life of every slot, and the latest marks as a table."""
    legend = "".join(f'<li class="wg-key-{name}">{name}</li>' for name in LEGEND)
    signs = "".join(f"<li>{sign} {name}</li>" for name, sign in MARKS.items())
    return f'{_rates(found, axis)}{_lives(line, bars, slots, axis)}<ul class="wg-legend">{legend}{signs}</ul>{_latest(line)}'


def _lives(line: Timeline, bars: Bars, slots: Sequence[int], axis: Axis) -> str:
    rows = {slot: row for row, slot in enumerate((SERVER, *slots))}
    height = ROW * len(rows) + 16
    parts = [*_ticks(axis, ROW * len(rows))]
    for slot, row in rows.items():
        name = f"slot {slot}" if slot else "server"
        parts.append(f'<text x="0" y="{row * ROW + 10:g}">{name}</text>')
    parts.append(bars.draw(line, rows, axis))
    parts += _marks(line, rows, axis)
    return (
        f'<svg class="wg-lives" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
        f'aria-label="The life of every slot; the table below has the events">{"".join(parts)}</svg>'
    )


def _ticks(axis: Axis, height: float) -> Iterator[str]:
    for at in axis.ticks():
        x = axis.x(at)
        yield f'<line class="wg-grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height:g}"/>'
        yield f'<text class="wg-hour" x="{x:.1f}" y="{height + 12:g}">{_clock(at)}</text>'


def _clock(at: float, *, form: str = "%H:%M") -> str:
    return datetime.fromtimestamp(at, UTC).strftime(form)


class Bars:
    """Draws lives and waits. What has ended is drawn once: SVG moves it along as time goes by.

    Coordinates are seconds after ``base``; the drawing around them says which stretch is seen.
    """

    def __init__(self, base: float) -> None:
        self._base = base
        self._rows: Mapping[int, int] = {}
        self._drawn: dict[Life, Sequence[tuple[str, str]]] = {}

    def draw(self, line: Timeline, rows: Mapping[int, int], axis: Axis) -> str:
        """Return a drawing of the stretch that the axis shows."""
        if rows != self._rows:
            self._rows, self._drawn = dict(rows), {}
        self._drawn = {
            life: self._drawn.get(life) or self._life(life, axis) for life in line.lives if life.slot in rows
        }
        paths: dict[str, list[str]] = {kind: [] for kind in LEGEND}
        for wait in line.waits:
            if wait.slot in rows:
                until = min(wait.until, axis.now)
                paths["back-off"].append(self._bar(wait.slot, 0, wait.begun, until, axis))
        for drawn in self._drawn.values():
            for kind, path in drawn:
                paths[kind].append(path)
        for life in [life for life in self._drawn if life.ended is None]:
            del self._drawn[life]
        height = ROW * len(rows)
        shown = "".join(
            f'<path class="wg-bar-{kind}" d="{"".join(found)}"/>' for kind, found in paths.items()
        )
        return (
            f'<svg x="{LABEL:g}" y="0" width="{WIDTH - LABEL:g}" height="{height:g}" preserveAspectRatio="none" '
            f'viewBox="{axis.first - self._base:.1f} 0 {axis.window:.1f} {height:g}">{shown}</svg>'
        )

    def _life(self, life: Life, axis: Axis) -> Sequence[tuple[str, str]]:
        return [
            (kind, self._bar(life.slot, life.lane, start, end, axis))
            for kind, start, end in life.spans(axis.now)
        ]

    def _bar(self, slot: int, lane: int, start: float, end: float, axis: Axis) -> str:
        start = max(start, axis.first - WINDOW)  # of a life that began before anybody looked
        width = max(end - start, 0.8)
        return (
            f"M{start - self._base:.1f} {self._rows[slot] * ROW + 1 + lane * 6:g}h{width:.1f}v5h-{width:.1f}z"
        )


def _marks(line: Timeline, rows: Mapping[int, int], axis: Axis) -> Iterator[str]:
    merged: dict[tuple[int, int, str], tuple[int, Mark]] = {}
    for mark in reversed(line.marks):
        if mark.slot in rows and mark.at >= axis.first:
            key = (mark.slot, int(axis.x(mark.at) / 4), mark.kind)
            times, last = merged.get(key, (0, mark))
            merged[key] = times + 1, last
            if len(merged) >= MOST_MARKS:
                break
    for (slot, fourth, kind), (times, last) in merged.items():
        many = f"{times} times, last: " if times > 1 else ""
        yield (
            f'<text class="wg-mark wg-mark-{kind}" x="{fourth * 4}" y="{rows[slot] * ROW + 10:g}">{MARKS[kind]}'
            f"<title>{many}{escape(plain(last.text))}</title></text>"
        )


def _latest(line: Timeline) -> str:
    if not line.marks:
        return ""
    rows = "".join(
        f"<tr><td>{_clock(mark.at, form='%H:%M:%S')}</td><td>{mark.slot or 'server'}</td><td>{mark.kind}</td>"
        f"<td>{escape(plain(mark.text))}</td></tr>"
        for mark in reversed(line.marks[-EVENTS_SHOWN:])
    )
    return (
        '<details id="wg-latest"><summary>The latest events</summary><table class="wg-events"><thead><tr>'
        f"<th>UTC</th><th>slot</th><th>what</th><th></th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _rates(found: Sequence[Rate], axis: Axis) -> str:
    height = 60.0
    shown = [rate for rate in found if rate.at >= axis.first]
    most = max((rate.requests for rate in shown), default=0.0)
    top = most or 1.0

    across = [f"{axis.x(rate.at):.1f}" for rate in shown]

    def points(values: Iterable[float]) -> str:
        return " ".join(
            f"{x},{height - height * value / top:.1f}" for x, value in zip(across, values, strict=True)
        )

    last = shown[-1] if shown else Rate(axis.now, 0.0, 0.0)
    said = f"{last.requests:.1f} requests/s now, {last.errors:.1f} of them 5xx; {most:.1f} at most"
    return (
        f'<figure class="wg-rates"><figcaption>{said}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH:g} {height + 2:g}" role="img" aria-label="Requests and errors a second: {said}">'
        f'<polyline class="wg-line-requests" points="{points(rate.requests for rate in shown)}"/>'
        f'<polyline class="wg-line-errors" points="{points(rate.errors for rate in shown)}"/></svg></figure>'
    )


# one slot


def waterfall(steps: Sequence[Mapping[str, Any]]) -> str:
    """Render a load's steps, one below the other, each beginning where the last one ended."""
    whole = sum(float(step["seconds"]) for step in steps)
    if not whole:
        return ""
    begun, rows, parts = 0.0, len(steps), []
    for row, step in enumerate(steps):
        x, y = 300 + 600 * begun / whole, row * 18
        begun += float(step["seconds"])
        memory = f"{step['retained_bytes'] / 1048576:+.1f} MB"
        parts.append(
            f'<text x="0" y="{y + 12}">{escape(plain(str(step["name"])))}</text>'
            f'<rect class="wg-bar-loading" x="{x:.1f}" y="{y + 2}" width="{max(600 * step["seconds"] / whole, 1):.1f}" '
            f'height="13"/><text x="{WIDTH:g}" y="{y + 12}" class="wg-right">{step["seconds"] * 1000:.0f} ms, {memory}</text>'
        )
    return (
        f'<svg class="wg-waterfall" viewBox="0 0 {WIDTH:g} {rows * 18}" role="img" '
        f'aria-label="The load\'s steps">{"".join(parts)}</svg>'
    )


def happened(events: Iterable[Mapping[str, Any]]) -> str:
    """Render events, a line each."""
    return "".join(f"<li>{escape(event_line(event))}</li>" for event in events)
