"""The recycle rules, which mirror uWSGI's: when a worker is due to be replaced. Pure.

Each rule returns its reason with the numbers; the plan replaces within the budget.
What uWSGI decides in the worker, at the end of a request, is decided here, so that idle
workers are seen and the successor is ready first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from django_workerguard.config.text import in_megabytes
from django_workerguard.policy.backoff import jitter
from django_workerguard.policy.reason import ASKED_FOR, RECYCLES, Reason, Rule
from django_workerguard.policy.view import Fleet, Policy, Record, State, Worker

SPREAD = 0.05  # of max-worker-lifetime, by which servers differ
SAMPLES = 3  # measures in a row, so that one large response is no reason
CANCEL_GRACE = 5.0  # seconds that a request has to end after its worker has cancelled it
OFTEN = 3  # recycles of one slot by one rule
OFTEN_WITHIN = 900.0  # seconds, so that a worker lives for less than five minutes on average
NO_ROOM = 2  # loads in a row that fail for want of memory, until the larger one goes first


def why_due(policy: Policy, fleet: Fleet, worker: Worker, now: float) -> Reason | None:
    """Return the reason for which a worker is to be replaced; None if no rule applies."""
    if worker.state is State.UNLOADED:
        return _too_old(policy, worker, now)
    if worker.state is not State.READY:
        return None
    if policy.request_timeout_action != "report":
        if worker.overdue:
            return Reason(Rule.REQUEST_TIMEOUT, named(worker.overdue))
        if policy.request_timeout and worker.stalled >= policy.request_timeout:
            text = f"calls have waited for {worker.stalled:.0f} s for an executor of the event loop, and none has begun"
            return Reason(Rule.REQUEST_TIMEOUT, text)
    if not is_old_enough(policy, worker, now):
        return None
    return next((reason for reason in _reasons(policy, fleet, worker, now) if reason), None)


def _reasons(policy: Policy, fleet: Fleet, worker: Worker, now: float) -> Iterator[Reason | None]:
    yield _too_many_requests(policy, worker)
    yield _too_old(policy, worker, now)
    yield _too_large(policy, worker)
    if policy.reload_on_memory_error and worker.memory_errors:
        text = f"{worker.memory_errors} of {worker.requests} requests ended in MemoryError"
        yield Reason(Rule.RELOAD_ON_MEMORY_ERROR, text)
    if policy.outlier == "eject":
        yield fleet.outliers.get(worker.seat)
    if policy.outlier_latency == "eject":
        yield fleet.slow.get(worker.seat)


def named(overdue: tuple[str, ...]) -> str:
    """Name the requests that have run too long: the oldest, and how many more."""
    more = f" and {len(overdue) - 1} more" if len(overdue) > 1 else ""
    return f"{overdue[0]}{more}"


def is_stuck(policy: Policy, fleet: Fleet, worker: Worker) -> bool:
    """Return whether every thread has been busy with one request for longer than timeout, while others wait or may wait."""
    others_wait = worker.waiting > 0 if policy.accepts_ahead else fleet.backlog != 0
    return 0 < policy.threads <= worker.long and others_wait


def is_stalled(policy: Policy, worker: Worker) -> bool:
    """Return whether no call to an executor of the event loop has begun for longer than timeout, while calls wait."""
    return 0 < policy.timeout <= worker.stalled


def only_overdue(worker: Worker) -> bool:
    """Return whether a worker that leaves for its overdue requests has no other in hand."""
    leaves = worker.reason is not None and worker.reason.rule is Rule.REQUEST_TIMEOUT
    return leaves and bool(worker.overdue) and worker.in_flight <= len(worker.overdue)


def is_old_enough(policy: Policy, worker: Worker, now: float) -> bool:
    """Return whether a worker has been ready for min-worker-lifetime, so that the rules apply to it."""
    return worker.ready_at is not None and now - worker.ready_at >= policy.min_worker_lifetime


def lifetime(policy: Policy, worker: Worker) -> float:
    """Return how long after its start a worker becomes due, in seconds; 0: never."""
    if not policy.max_worker_lifetime:
        return 0.0
    own = (
        policy.max_worker_lifetime * SPREAD * policy.seed
    )  # servers that were started together do not recycle together
    return policy.max_worker_lifetime + own + policy.max_worker_lifetime_delta * (worker.slot - 1)


def due_at(policy: Policy, worker: Worker) -> float | None:
    """Return when a worker becomes due by its age, on the arbiter's clock; None: never."""
    limit = lifetime(policy, worker)
    if not limit:
        return None
    protected = worker.ready_at + policy.min_worker_lifetime if worker.ready_at is not None else 0.0
    return max(worker.spawned + limit, protected)


def _too_old(policy: Policy, worker: Worker, now: float) -> Reason | None:
    limit, age = lifetime(policy, worker), now - worker.spawned
    if not limit or age < limit:
        return None
    return Reason(Rule.MAX_WORKER_LIFETIME, f"{age:.0f} s of {round(limit, 1):g}")


def _too_many_requests(policy: Policy, worker: Worker) -> Reason | None:
    if not policy.max_requests:
        return None
    more = int(policy.max_requests_jitter * jitter(worker.ordinal, policy.seed))
    limit = policy.max_requests + policy.max_requests_delta * (worker.slot - 1) + more
    return Reason(Rule.MAX_REQUESTS, f"{worker.requests} of {limit}") if worker.requests >= limit else None


def _too_large(policy: Policy, worker: Worker) -> Reason | None:
    limit = policy.reload_on_rss
    if (
        not limit or worker.rss_over < SAMPLES or worker.rss_at_first >= limit
    ):  # a fresh one would be no smaller
        return None
    return Reason(Rule.RELOAD_ON_RSS, f"{_size(worker, limit)}, {worker.rss_over} samples in a row")


def _size(worker: Worker, limit: int) -> str:
    return f"{in_megabytes(worker.rss)} of {in_megabytes(limit)}"


def is_large_at_first(policy: Policy, worker: Worker) -> bool:
    """Say whether a worker was at one of the rss limits as soon as it was ready, so that replacing leads nowhere."""
    limits = [limit for limit in (policy.reload_on_rss, policy.evil_reload_on_rss) if limit]
    return bool(limits) and worker.rss_at_first >= min(limits)


def recycled(record: Record, rule: Rule, at: float) -> Record:
    """Remember that a rule has replaced a worker of a slot. A reload begins anew: other code may have cured the cause."""
    if rule is Rule.RELOAD:
        return replace(record, recycled=())
    if rule not in RECYCLES or rule in ASKED_FOR:
        return record
    return replace(record, recycled=(*record.recycled, (rule, at))[-OFTEN:])


def recycled_often(record: Record, now: float) -> Rule | None:
    """Return the rule that has replaced the last OFTEN workers of a slot within OFTEN_WITHIN; None if there is none."""
    rules = [rule for rule, at in record.recycled if now - at <= OFTEN_WITHIN]
    return rules[0] if len(rules) == OFTEN and len(set(rules)) == 1 else None


def why_kill(policy: Policy, fleet: Fleet, now: float) -> tuple[Worker, Reason] | None:
    """Choose the worker that evil-reload-on-rss kills now, with the reason; None if there is none."""
    limit = policy.evil_reload_on_rss
    if not limit or fleet.ready < 2:
        return None
    if fleet.last_evil is not None and now - fleet.last_evil < policy.min_worker_lifetime:
        return None
    candidates = [
        worker
        for worker in fleet.of(State.READY)
        if worker.rss >= limit > worker.rss_at_first
        and worker.aborted is None
        and is_old_enough(policy, worker, now)
        and not fleet.record(worker.slot).evil_suspended
    ]
    if not candidates:
        return None
    largest = max(candidates, key=lambda w: (w.rss, -w.ordinal))
    return largest, Reason(Rule.EVIL_RELOAD_ON_RSS, f"{_size(largest, limit)}, {fleet.ready} ready")
