"""Outliers: workers whose requests fail, or take long, while the requests of their peers do not. Pure.

A worker whose requests fail is compared with the healthier half of its peers, over the last minute: with two
workers that is the other one, and where all workers fail none stands out. A worker whose requests take long is
compared with all its peers together, by the counts of the histograms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, zip_longest

from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Fleet, Policy, State, Worker
from django_workerguard.values import value_class

WINDOW = 60.0  # seconds
MARK_EVERY = 10.0  # seconds between two marks in the window
LEAST_ERRORS = 5
TIMES = 2.0  # so many times the rate of its peers
SIGMAS = 5.0  # and so unlikely by chance
TIMES_SLOWER = 3.0  # the median of a slow worker, in medians of its peers
LEAST_SLOW = 0.1  # seconds; a median below that is not slow


def outliers(policy: Policy, fleet: Fleet, now: float) -> dict[int, Reason]:
    """Return by seat the numbers by which a worker stands out; takes n log n for n workers."""
    if policy.outlier == "off":
        return {}
    counts = {worker.seat: recent(worker, now) for worker in fleet.of(State.READY)}
    reasons: dict[int, Reason] = {}
    peers: _Peers | None = None
    for seat, (requests, errors) in counts.items():
        if requests < policy.outlier_min_requests or errors < LEAST_ERRORS:
            continue
        peers = peers or _Peers.of(counts)
        if reason := _reason(policy, requests, errors, *peers.healthier_half(seat)):
            reasons[seat] = reason
    return reasons


def _reason(
    policy: Policy, requests: int, errors: int, peer_requests: int, peer_errors: int
) -> Reason | None:
    if peer_requests < policy.outlier_min_requests:
        return None
    if not _stands_out(errors, requests, peer_errors, peer_requests):
        return None
    return Reason(
        Rule.OUTLIER,
        f"{errors} of its last {requests} requests ended in 5xx ({errors / requests:.1%}), "
        f"{peer_errors} of {peer_requests} of its healthier peers'",
    )


def _stands_out(some: int, of: int, peers_some: int, peers_of: int) -> bool:
    """Say whether a share of a worker's requests is far above that of its peers, and not by chance."""
    share, expected = some / of, (peers_some + 1) / (peers_of + 2)
    by_chance = SIGMAS * math.sqrt(expected * (1 - expected) / of)
    return share >= TIMES * expected and share - expected >= by_chance


def slow_workers(policy: Policy, fleet: Fleet, bounds: Sequence[float], now: float) -> dict[int, Reason]:
    """Return by seat the numbers by which a worker is slower than its peers. ``bounds``: of the buckets, in seconds."""
    if policy.outlier_latency == "off":
        return {}
    counts = {worker.seat: recent_durations(worker, now) for worker in fleet.of(State.READY)}
    totals = [sum(column) for column in zip_longest(*counts.values(), fillvalue=0)]
    reasons: dict[int, Reason] = {}
    for seat, own in counts.items():
        if sum(own) < policy.outlier_min_requests:
            continue
        peers = [total - count for total, count in zip(totals, own, strict=True)]
        if sum(peers) >= policy.outlier_min_requests and (reason := _why_slow(own, peers, bounds)):
            reasons[seat] = reason
    return reasons


def _why_slow(own: Sequence[int], peers: Sequence[int], bounds: Sequence[float]) -> Reason | None:
    bucket = _slow_above(peers, bounds)
    if bucket is None:
        return None
    requests, slow = sum(own), sum(own[bucket + 1 :])
    peer_requests, peers_slow = sum(peers), sum(peers[bucket + 1 :])
    if 2 * slow <= requests or not _stands_out(slow, requests, peers_slow, peer_requests):
        return None
    return Reason(
        Rule.OUTLIER_LATENCY,
        f"{slow} of its last {requests} requests took longer than {bounds[bucket]:g} s, "
        f"{peers_slow} of {peer_requests} of its peers'",
    )


def _slow_above(peers: Sequence[int], bounds: Sequence[float]) -> int | None:
    """Return the first bucket whose bound is TIMES_SLOWER times the peers' median; None if there is none."""
    half = sum(peers) / 2
    median = next(
        (bound for bound, sum_ in zip(bounds, accumulate(peers), strict=False) if sum_ >= half), None
    )
    if median is None:
        return None
    least = max(TIMES_SLOWER * median, LEAST_SLOW)
    return next((bucket for bucket, bound in enumerate(bounds) if bound >= least), None)


def recent_durations(worker: Worker, now: float) -> tuple[int, ...]:
    """Return the counts of each bucket for the requests of the last minute, or since the worker was ready."""
    marks = [mark for mark in worker.durations if now - mark.at <= WINDOW]
    if not marks:
        return ()
    first, last = marks[0].counts, marks[-1].counts
    return tuple(max(0, count - before) for count, before in zip_longest(last, first, fillvalue=0))


def recent(worker: Worker, now: float) -> tuple[int, int]:
    """Return the requests and the 5xx of the last minute, or since the worker was ready; never more 5xx than requests.

    The counters may contradict each other: a worker may damage its own, and one is read after the other.
    """
    first = next((mark for mark in worker.marks if now - mark.at <= WINDOW), None)
    if first is None:
        return 0, 0
    requests = max(0, worker.requests - first.requests)
    return requests, min(requests, max(0, worker.errors - first.errors))


@value_class
class _Peers:
    """The workers that had requests, the healthiest first, and the sums of the first of them."""

    places: Mapping[int, int]  # by seat
    requests: Sequence[int]
    errors: Sequence[int]
    sums_of_requests: Sequence[int]
    sums_of_errors: Sequence[int]

    @classmethod
    def of(cls, counts: Mapping[int, tuple[int, int]]) -> _Peers:
        workers = [(seat, requests, errors) for seat, (requests, errors) in counts.items() if requests]
        workers.sort(key=lambda one: (one[2] / one[1], -one[1]))
        requests, errors = [one[1] for one in workers], [one[2] for one in workers]
        return cls(
            {seat: place for place, (seat, _, _) in enumerate(workers)},
            requests,
            errors,
            [0, *accumulate(requests)],
            [0, *accumulate(errors)],
        )

    def healthier_half(self, seat: int) -> tuple[int, int]:
        """Return the requests and 5xx, together, of the half of a worker's peers that fail least."""
        half, place = math.ceil((len(self.requests) - 1) / 2), self.places[seat]
        if place >= half:
            return self.sums_of_requests[half], self.sums_of_errors[half]
        return (
            self.sums_of_requests[half + 1] - self.requests[place],
            self.sums_of_errors[half + 1] - self.errors[place],
        )
