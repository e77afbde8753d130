"""Outliers: workers whose requests fail while the requests of their peers succeed. Pure.

A worker is compared with the healthier half of its peers, over the last minute: with two
workers that is the other one, and where all workers fail none stands out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Fleet, Policy, State, Worker

WINDOW = 60.0  # seconds
MARK_EVERY = 10.0  # seconds between two marks in the window
LEAST_ERRORS = 5
TIMES = 2.0  # so many times the rate of its peers
SIGMAS = 5.0  # and so unlikely by chance


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
    rate, expected = errors / requests, (peer_errors + 1) / (peer_requests + 2)
    if rate < TIMES * expected or rate - expected < SIGMAS * math.sqrt(expected * (1 - expected) / requests):
        return None
    return Reason(
        Rule.OUTLIER,
        f"{errors} of its last {requests} requests ended in 5xx ({rate:.1%}), "
        f"{peer_errors} of {peer_requests} of its healthier peers'",
    )


def recent(worker: Worker, now: float) -> tuple[int, int]:
    """Return the requests and the 5xx of the last minute, or since the worker was ready."""
    first = next((mark for mark in worker.marks if now - mark.at <= WINDOW), None)
    if first is None:
        return 0, 0
    return worker.requests - first.requests, worker.errors - first.errors


@dataclass(frozen=True)
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
