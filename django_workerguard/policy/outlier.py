"""Which worker fails where its peers do not. Pure.

A worker is compared with the healthier half of its peers, over the last minute: with two
workers that is the other one, and where everybody fails nobody stands out.
"""

from __future__ import annotations

import math

from django_workerguard.policy.view import Fleet, Policy, State, Worker

WINDOW = 60.0  # seconds
MARK_EVERY = 10.0  # seconds between two marks in the window
LEAST_ERRORS = 5
TIMES = 2.0  # so many times the rate of its peers
SIGMAS = 5.0  # and so unlikely by chance


def outlier(policy: Policy, fleet: Fleet, worker: Worker, now: float) -> str:
    """Say by which numbers a worker stands out; "" if it does not."""
    requests, errors = recent(worker, now)
    if requests < policy.outlier_min_requests or errors < LEAST_ERRORS:
        return ""
    peer_requests, peer_errors = _healthier_half(fleet, worker, now)
    if peer_requests < policy.outlier_min_requests:
        return ""
    rate, expected = errors / requests, (peer_errors + 1) / (peer_requests + 2)
    if rate < TIMES * expected or rate - expected < SIGMAS * math.sqrt(expected * (1 - expected) / requests):
        return ""
    return (
        f"outlier: {errors} of its last {requests} requests ended in 5xx ({rate:.1%}), "
        f"{peer_errors} of {peer_requests} of its healthier peers'"
    )


def recent(worker: Worker, now: float) -> tuple[int, int]:
    """Return the requests and the 5xx of the last minute, or since the worker was ready."""
    within = [mark for mark in worker.marks if now - mark.at <= WINDOW]
    if not within:
        return 0, 0
    return worker.requests - within[0].requests, worker.errors - within[0].errors


def _healthier_half(fleet: Fleet, worker: Worker, now: float) -> tuple[int, int]:
    """Return the requests and 5xx, together, of the half of the peers that fail least."""
    peers = [recent(peer, now) for peer in fleet.of(State.READY) if peer.seat != worker.seat]
    seen = sorted((peer for peer in peers if peer[0]), key=lambda peer: (peer[1] / peer[0], -peer[0]))
    half = seen[: math.ceil(len(seen) / 2)]
    return sum(requests for requests, _ in half), sum(errors for _, errors in half)
