"""What workers count, and what is measured of them. Pure."""

from __future__ import annotations

from dataclasses import replace

from django_workerguard.policy import message as m
from django_workerguard.policy.outlier import MARK_EVERY, WINDOW, outliers, slow_workers
from django_workerguard.policy.view import Counts, Durations, Fleet, Policy, State, Worker


def counted(worker: Worker, reading: m.Reading, at: float) -> Worker:
    """Take in what a worker counts; it costs nothing where no number has changed."""
    on_duty = reading.on_duty if worker.state in (State.UNLOADED, State.RETIRING) else worker.on_duty
    new = (reading.beat, reading.requests, reading.errors, reading.memory_errors, reading.in_flight)
    old = (worker.beat, worker.requests, worker.errors, worker.memory_errors, worker.in_flight)
    hard = (reading.overdue, reading.waiting, reading.long, reading.stalled)
    if (
        new == old
        and on_duty == worker.on_duty
        and hard == (worker.overdue, worker.waiting, worker.long, worker.stalled)
    ):
        return worker
    return worker.having(
        beat=reading.beat,
        beat_seen=at if reading.beat != worker.beat else worker.beat_seen,
        requests=reading.requests,
        errors=reading.errors,
        memory_errors=reading.memory_errors,
        in_flight=reading.in_flight,
        overdue=reading.overdue,
        waiting=reading.waiting,
        long=reading.long,
        stalled=reading.stalled,
        on_duty=on_duty,
    )


def measured(policy: Policy, fleet: Fleet, message: m.Measured) -> Fleet:
    workers = dict(fleet.workers)
    for seat, resident in message.rss:
        if seat in workers and resident:
            workers[seat] = _sized(policy, workers[seat], resident, message.at)
    fleet = replace(fleet, workers=workers, backlog=message.backlog)
    return replace(fleet, outliers=outliers(policy, fleet, message.at))


def _sized(policy: Policy, worker: Worker, resident: int, at: float) -> Worker:
    over = policy.reload_on_rss and resident >= policy.reload_on_rss
    at_first = worker.rss_at_first or (resident if worker.ready_at is not None else 0)
    marks = worker.marks
    if marks and at - marks[-1].at >= MARK_EVERY:
        marks = (*marks, Counts(at, worker.requests, worker.errors))
        marks = tuple(mark for mark in marks if at - mark.at <= WINDOW)
    rss_over = worker.rss_over + 1 if over else 0
    old = (worker.rss, worker.rss_over, worker.rss_at_first, worker.marks)
    if old == (resident, rss_over, at_first, marks):
        return worker
    return worker.having(rss=resident, rss_over=rss_over, rss_at_first=at_first, marks=marks)


def timed(policy: Policy, fleet: Fleet, message: m.Timed) -> Fleet:
    workers = dict(fleet.workers)
    for seat, counts in message.counts:
        if seat in workers and workers[seat].durations:
            marks = (*workers[seat].durations, Durations(message.at, counts))
            recent = tuple(mark for mark in marks if message.at - mark.at <= WINDOW)
            workers[seat] = workers[seat].having(durations=recent)
    fleet = replace(fleet, workers=workers)
    return replace(fleet, slow=slow_workers(policy, fleet, message.bounds, message.at))
