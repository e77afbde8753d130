"""Requests and errors per second, from the samples. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from django_workerguard.values import value_class


@value_class
class Rate:
    """Rates per second between two samples; ``at`` is the time of the later one, in Unix seconds."""

    at: float
    requests: float
    errors: float


def rates(at: Sequence[int], requests: Sequence[int], errors: Sequence[int]) -> list[Rate]:
    """Return the rates per second between the samples; a total that falls (a slot was removed) counts as 0."""
    result = []
    for before in range(len(at) - 1):
        passed = at[before + 1] - at[before]
        if passed > 0:
            request_rate = max(0, requests[before + 1] - requests[before]) / passed
            error_rate = max(0, errors[before + 1] - errors[before]) / passed
            result.append(Rate(at[before + 1], request_rate, min(error_rate, request_rate)))
    return result
