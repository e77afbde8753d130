"""What a journal proves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def least_ready(events: Iterable[Mapping[str, Any]]) -> int:
    """Return in how many slots, at the least, a worker was ready since all were for the first time.

    From the changes of state, not from sampling.
    """
    ready: dict[int, int] = {}  # slots by pid
    least = target = 0
    started = False
    for event in events:
        match event["event"]:
            case "started":
                least = target = event["target"]
            case "ready":
                ready[event["pid"]] = event["slot"]
            case "retiring" | "killed" | "exited" | "aborted":
                ready.pop(event["pid"], None)
        serving = len(set(ready.values()))
        started = started or serving >= target
        if started:
            least = min(least, serving)
    return least
