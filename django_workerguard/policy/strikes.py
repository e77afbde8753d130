"""How failures are counted, and how long the next try waits. Pure."""

from __future__ import annotations

from dataclasses import replace

from django_workerguard.policy import message as m
from django_workerguard.policy.backoff import back_off
from django_workerguard.policy.reason import Rule
from django_workerguard.policy.view import Policy, Record, Refusal, Retry, Worker

STABLE = 10.0  # seconds of being ready after which a death is not an early one
CLEAN_STABLE = 1.0  # the same for a worker that left with exit code 0
FRESH = 10.0  # seconds after min-worker-lifetime in which a kill comes right after the load
MOST_RETRIES = 20  # of a reload whose configuration cannot be used
LEAST = 10.0  # seconds for a load that follows one which a reload has taken away


def next_try(policy: Policy, strikes: int, at: float, *, slot: int, transient: bool) -> float:
    """Return when the next try may begin. ``strikes``: the failures in a row; ``at``: the time of the last one."""
    return at + back_off(
        strikes,
        slot=slot,
        first=policy.load_retry_delay,
        longest=policy.load_retry_max_delay,
        transient=transient,
        seed=policy.seed,
    )


def struck(policy: Policy, record: Record, at: float, *, transient: bool) -> Record:
    """Count a failure, and have the next try wait."""
    strikes = record.strikes + 1
    return replace(
        record, strikes=strikes, next_try=next_try(policy, strikes, at, slot=record.slot, transient=transient)
    )


def failed(policy: Policy, record: Record, worker: Worker, message: m.Exited, newest: int) -> Record:
    """Count a failed load. ``newest``: the newest generation."""
    record = struck(policy, record, message.at, transient=message.transient)
    return replace(
        record,
        failures=record.failures + 1,
        old_failures=record.old_failures + (worker.generation < newest),
        timeouts=record.timeouts + 1 if worker.aborted is not None else 0,
        superseded_after=0.0,
        no_memory=record.no_memory + 1 if message.memory else 0,
    )


def died(policy: Policy, record: Record, worker: Worker, at: float, *, clean: bool) -> Record:
    """Count the death of a worker that was loaded, if it came early."""
    lived = at - (worker.ready_at if worker.ready_at is not None else worker.since)
    if lived >= (CLEAN_STABLE if clean else STABLE):
        return replace(record, strikes=0, next_try=at, wanted_out=None)
    # the first early death is replaced at once, the next ones wait
    return replace(
        record,
        strikes=record.strikes + 1,
        next_try=next_try(policy, record.strikes, at, slot=record.slot, transient=True),
        wanted_out=None,
    )


def killed(policy: Policy, record: Record, worker: Worker, at: float) -> Record:
    """Count the kills of evil-reload-on-rss that came right after the load: two show that they lead nowhere."""
    if worker.reason is None or worker.reason.rule is not Rule.EVIL_RELOAD_ON_RSS or worker.ready_at is None:
        return record
    fresh = at - worker.ready_at < policy.min_worker_lifetime + FRESH
    return replace(record, evil_kills=record.evil_kills + 1 if fresh else 0)


def may_be_taken_away(process: Worker, record: Record, now: float) -> bool:
    """Say whether a load in older code, which may hang, is ended where no worker is ready. A reload has begun.

    The load after it goes on to its end, or to its load timeout, in whatever code: reloads that come faster than a load
    would otherwise keep the slot empty for ever. Without a load timeout each load gets twice the time of the one before.
    """
    if not record.superseded_after:
        return True
    return not process.load_timeout and now - process.spawned >= max(LEAST, 2 * record.superseded_after)


def refused(policy: Policy, refusal: Refusal | None, message: m.ReloadRefused) -> Refusal:
    """Have a refused reload tried again: a file may have been half written, or memory may be short."""
    strikes = 1 if refusal is None else refusal.strikes + 1
    tries = {Retry.ALWAYS: strikes, Retry.SEVERAL: MOST_RETRIES, Retry.NEVER: 0}[message.retry]
    return Refusal(
        reason=message.reason,
        at=message.at,
        strikes=strikes,
        retry=message.retry,
        next_try=next_try(policy, strikes, message.at, slot=0, transient=True) if strikes <= tries else None,
    )
