"""Quantiles of a histogram. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """Return the value below which a share of what was counted lies; None if nothing was counted.

    ``bounds``: the upper bounds of the buckets, without the last one's. Within a bucket the values are taken to be spread
    evenly, as Prometheus does. In the last bucket the answer is its lower bound, because it has no upper one.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below, lower = share * total, 0, 0.0
    for count, upper in zip(counts, bounds, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return lower
