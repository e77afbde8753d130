"""The report as one HTML page with the timeline; it needs no other file. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from django_workerguard import __version__
from django_workerguard.config.text import duration, plain
from django_workerguard.drill.formats.table import HEAD, cells
from django_workerguard.drill.measure import Ready, Request, percentile, was_in_hand
from django_workerguard.drill.result import Report, Result, Run

WIDTH, HEIGHT, TOP, BOTTOM = 1000, 190, 34, 160  # of the timeline; the lines lie between top and bottom
Place = Callable[[float], float]
BIN = 0.25  # seconds of one bar of answer times
EVENTS = {
    "killed": "killed",
    "load-failed": "load failed",
    "frozen": "reload frozen",
    "no-room": "no room",
    "reload": "reload",
    "reloaded": "reloaded",
}
STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --soft: #5a6474; --back: #fff; --line: #d5dae2; --band: #f2f4f8;
  --ready: #1b6ec2; --answer: #b9c6d8; --lost: #c62828; --ok: #1b7a3d; --mark: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ef; --soft: #9aa5b6; --back: #14181f; --line: #333b48;
  --band: #1d232d; --ready: #6db3f8; --answer: #46546a; --lost: #ff7b72; --ok: #57c97a; --mark: #e3b341; } }
body { margin: 2rem auto; max-width: 66rem; padding: 0 1rem; color: var(--text); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td small { display: block; color: var(--soft); }
.ok { color: var(--ok); font-weight: 600; } .failed { color: var(--lost); font-weight: 600; }
.skipped, .legend { color: var(--soft); } svg { margin-top: 1.5rem; width: 100%; min-width: 44rem; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } .band { fill: var(--band); stroke: var(--back); stroke-width: 4; }
.ready { fill: none; stroke: var(--ready); stroke-width: 2; } .answer { fill: var(--answer); }
.lost { stroke: var(--lost); stroke-width: 2; } .hand { stroke: var(--mark); stroke-width: 2; }
.event { stroke: var(--mark); stroke-width: 1; stroke-dasharray: 2 3; } .axis { stroke: var(--line); }
"""


def page(report: Report) -> str:
    """Return the page."""
    paths, about = ", ".join(report.paths), f"{report.seconds:.0f} s; django-workerguard {__version__}"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>workerguard drill</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}</style></head><body>",
            "<h1>workerguard drill</h1>",
            f"<p>{_safe(report.conclusion)}</p>",
            f'<p class="legend">Settings {_safe(report.settings)}; GET {_safe(paths)}; {about}.</p>',
            *(part for run in report.runs for part in _of_run(run)),
            *_list("Notes", report.notes),
            *_list("Changed for the drill", report.changes),
            *_list("Advice", report.advice),
            "</body></html>",
            "",
        )
    )


def _of_run(run: Run) -> Iterator[str]:
    yield f"<h2>{_safe(run.server)}, {run.target} workers</h2>"
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f"<th>{name.capitalize()}</th>" for name in HEAD)
    yield "</tr></thead><tbody>"
    for one in run.results:
        yield _row(one, run.target)
    yield "</tbody></table></div>"
    yield from timeline(run)


def _row(one: Result, target: int) -> str:
    act, *figures, verdict = cells(one, target)
    said = "".join(f"<small>{_safe(text)}</small>" for text in (*one.verdict.reasons, *one.notes))
    return (
        f"<tr><td>{_safe(act)}<small>{_safe(one.title)}</small></td>"
        + "".join(f"<td>{_safe(figure)}</td>" for figure in figures)
        + f'<td><span class="{_safe(verdict)}">{_safe(verdict)}</span>{said}</td></tr>'
    )


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"<h2>{title}</h2><ul>{''.join(f'<li>{_safe(line)}</li>' for line in lines)}</ul>"


def timeline(run: Run) -> Iterator[str]:
    """Yield the drawing: the acts, the number of ready workers, the slowest answers and each lost request."""
    windows = [one.window for one in run.results if one.window is not None]
    if not windows:
        return
    begin, end = windows[0].begin, max(windows[-1].end, windows[0].begin + 1)
    most = max([run.target, 1, *(one.number for one in run.ready)])

    def x(at: float) -> float:
        return round((min(max(at, begin), end) - begin) / (end - begin) * WIDTH, 1)

    def y(share: float) -> float:
        return round(BOTTOM - share * (BOTTOM - TOP), 1)

    yield '<div class="wide">'
    yield (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Timeline of {_safe(run.server)}: ready workers, '
        'answer times and lost requests">'
    )
    for number, window in enumerate(windows):
        left, right = x(window.begin), x(window.end)
        yield (
            f'<rect class="band" x="{left}" y="{TOP - 14}" width="{max(0, right - left):.1f}" '
            f'height="{BOTTOM - TOP + 14}"/>'
        )
        # neighbours do not write over each other
        yield f'<text x="{left + 2}" y="{10 if number % 2 else 22}">{_safe(window.act)}</text>'
    yield from _answers(run.requests, begin, end, x, y)
    yield f'<line class="axis" x1="0" y1="{BOTTOM}" x2="{WIDTH}" y2="{BOTTOM}"/>'
    for event in run.events:
        if event.get("event") in EVENTS and begin <= event["at"] <= end:
            at = x(event["at"])
            said = f"{EVENTS[event['event']]} {event.get('type') or event.get('cause') or ''}".strip()
            yield (
                f'<line class="event" x1="{at}" y1="{TOP}" x2="{at}" y2="{BOTTOM}"><title>{_safe(said)}</title></line>'
            )
    yield f'<path class="ready" d="{_steps(run.ready, begin, x, lambda number: y(number / most))}"/>'
    kills = [at for window in windows for at in window.kills]
    for one in run.requests:
        if one.is_lost:
            kind = "hand" if was_in_hand(one, kills) else "lost"
            said = f"{one.path}: {one.error or f'status {one.status}'}"
            yield (
                f'<line class="{kind}" x1="{x(one.ended)}" y1="{BOTTOM + 4}" x2="{x(one.ended)}" y2="{BOTTOM + 14}">'
                f"<title>{_safe(said)}</title></line>"
            )
    for second in range(0, int(end - begin) + 1, _tick(end - begin)):
        yield f'<text x="{x(begin + second)}" y="{HEIGHT - 2}">{second} s</text>'
    yield "</svg></div>"
    yield (
        '<p class="legend">Line: ready workers. Bars: the slowest answer of a quarter of a second, on a logarithmic scale '
        "from 1 ms to 30 s. Below the axis: lost requests; those that a killed worker had in hand have the colour of the "
        "dashed lines, which are events of the journal.</p>"
    )


def _answers(requests: Sequence[Request], begin: float, end: float, x: Place, y: Place) -> Iterator[str]:
    bins: dict[int, list[float]] = {}
    for one in requests:
        if not one.is_lost and begin <= one.sent <= end:
            bins.setdefault(int((one.sent - begin) / BIN), []).append(one.seconds)
    for number, values in sorted(bins.items()):
        slowest = max(values)
        left, right = x(begin + number * BIN), x(begin + (number + 1) * BIN)
        top = y(_height(slowest))
        said = f"p50 {duration(percentile(values, 50) or 0)}, slowest {duration(slowest)}"
        yield (
            f'<rect class="answer" x="{left}" y="{top}" width="{max(0.5, right - left - 0.5):.1f}" '
            f'height="{max(0.0, BOTTOM - top):.1f}"><title>{said}</title></rect>'
        )


def _height(seconds: float) -> float:
    """Return the share of the height for an answer time, on a logarithmic scale from 1 ms to 30 s."""
    return min(1.0, max(0.0, math.log10(max(seconds, 1e-3) / 1e-3) / math.log10(30 / 1e-3)))


def _steps(ready: Sequence[Ready], begin: float, x: Place, y: Place) -> str:
    before = [one for one in ready if one.at <= begin]
    points = [*before[-1:], *(one for one in ready if one.at > begin)]
    if not points:
        return ""
    path = [f"M{x(points[0].at)} {y(points[0].number)}"]
    path += [f"H{x(one.at)}V{y(one.number)}" for one in points[1:]]
    return "".join((*path, f"H{WIDTH}"))


def _tick(seconds: float) -> int:
    return next((step for step in (1, 2, 5, 10, 20, 30, 60) if seconds / step <= 16), 300)


def _safe(text: str) -> str:
    return escape(plain(text))
