"""Sparklines of the dashboard: the last hour of a number, as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence

POINTS = 60  # minutes
WIDTH, HEIGHT = 120, 24


def sparkline(values: Sequence[float | None], name: str, *, floor: float = 0.0) -> str:
    """Draw values of whole minutes, the newest at the right end; "" if there are fewer than two.

    ``floor``: the value at the bottom. A drawing has only a name, because the tile has the newest value as text.
    """
    shown = values[-POINTS:]
    known = [value for value in shown if value is not None]
    if len(known) < 2:
        return ""
    span = max(known) - floor
    scale = (HEIGHT - 2) / span if span > 0 else 0.0
    first = POINTS - len(shown)
    steps: list[str] = []
    pen = "M"
    for index, value in enumerate(shown):
        if value is None:
            pen = "M"
            continue
        x = (first + index) * WIDTH / (POINTS - 1)
        steps.append(f"{pen}{x:.0f} {HEIGHT - 1 - max(0.0, value - floor) * scale:.0f}")
        pen = "L"
    return (
        f'<svg class="wg-spark" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="{name}"><path d="{"".join(steps)}"/></svg>'
    )
