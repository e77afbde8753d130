"""How many requests and errors a second there were, out of the samples. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """What happened between two samples; ``at`` is the later one's, in Unix seconds."""

    at: float
    requests: float
    errors: float


def rates(at: Sequence[int], requests: Sequence[int], errors: Sequence[int]) -> list[Rate]:
    """Return the rates per second between the samples; a total that falls (a slot has gone) counts as nothing."""
    found = []
    for before in range(len(at) - 1):
        passed = at[before + 1] - at[before]
        if passed > 0:
            more = max(0, requests[before + 1] - requests[before]) / passed
            worse = max(0, errors[before + 1] - errors[before]) / passed
            found.append(Rate(at[before + 1], more, min(worse, more)))
    return found
