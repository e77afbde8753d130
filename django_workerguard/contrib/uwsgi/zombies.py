"""Decision which of uWSGI's workers to end, because it has no application and keeps answering 500. Pure.

uWSGI shows a worker without an application while it loads, and after its load has failed. Requests tell these apart,
because uWSGI serves none before the load has ended; without requests only time does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum

from django_workerguard.policy.backoff import back_off, load_timeout
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.values import value_class


class State(StrEnum):
    """The state of one of uWSGI's workers."""

    EMPTY = "empty"  # no process: cheaped, or about to be started again
    LOADING = "loading"  # no application yet
    READY = "ready"
    UNLOADED = "unloaded"  # no application, and there will be none


@value_class(kw_only=True)
class Sibling:
    """One of uWSGI's workers as ``uwsgi.workers()`` shows it. ``requests``: since its process was started."""

    id: int
    pid: int
    start: int  # of the process, in clock ticks; 0: it is gone
    loaded: bool
    requests: int = 0
    load_seconds: int = 0  # that its load took, in whole seconds
    cheap: bool = False

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start

    @property
    def is_there(self) -> bool:
        return self.pid > 0 and self.start > 0 and not self.cheap


@value_class(kw_only=True)
class Record:
    """What is remembered of a worker id. Times are in seconds of the monotonic clock; 0: never."""

    identity: tuple[int, int] = (0, 0)
    since: float = 0.0  # when this process was seen for the first time
    failures: int = 0  # processes in a row that were ended because they had no application
    next_end: float = 0.0  # the back-off: not before this time
    ended: float = 0.0  # when the latest of them was


@value_class(kw_only=True)
class Limits:
    """The options that the decision uses, in seconds, and a fraction that differs between servers."""

    load_timeout: float = 60.0
    load_retry_delay: float = 0.5
    load_retry_max_delay: float = 30.0
    seed: float = 0.0


@value_class(kw_only=True)
class Decision:
    """The state of every worker, the new memory, and the worker to end, with the reason, if there is one."""

    states: Mapping[int, State]
    memory: Mapping[int, Record]
    end: Sibling | None = None
    reasons: Mapping[int, Reason] = field(default_factory=dict)  # of each unloaded worker


def decide(
    siblings: Sequence[Sibling], memory: Mapping[int, Record], now: float, *, me: int, limits: Limits
) -> Decision:
    """Say which worker to end now, at most one. ``me``: the id of the worker that asks, which must be loaded itself."""
    seen = {sibling.id: _remember(sibling, memory.get(sibling.id, Record()), now) for sibling in siblings}
    reasons = {
        sibling.id: reason
        for sibling in siblings
        if (reason := _why_unloaded(sibling, seen[sibling.id], now, limits)) is not None
    }
    states = {sibling.id: _state(sibling, unloaded=sibling.id in reasons) for sibling in siblings}
    decision = Decision(states=states, memory=seen, reasons=reasons)
    if states.get(me) is not State.READY or _waits_for_the_last(siblings, states, seen, now, limits):
        return decision
    due = [
        sibling
        for sibling in siblings
        if states[sibling.id] is State.UNLOADED and seen[sibling.id].next_end <= now
    ]
    return replace(decision, end=min(due, key=lambda one: (seen[one.id].next_end, one.id), default=None))


def note_end(
    memory: Mapping[int, Record], sibling: Sibling, now: float, *, limits: Limits
) -> dict[int, Record]:
    """Return the memory after a worker was ended: its back-off begins."""
    record = memory[sibling.id]
    failures = record.failures + 1
    wait = back_off(
        failures,
        slot=sibling.id,
        first=limits.load_retry_delay,
        longest=limits.load_retry_max_delay,
        transient=True,
        seed=limits.seed,
    )
    ended = replace(record, failures=failures, next_end=now + wait, ended=now)
    return {**memory, sibling.id: ended}


def turn(siblings: Sequence[Sibling], limits: Limits) -> float:
    """Return how long, in seconds, the others wait for a worker that was ended: as long as two loads, and no more.

    Without a request to it, a worker that cannot load looks for ever as if it were loading.
    """
    two_loads = 2.0 + 2 * max((sibling.load_seconds for sibling in siblings), default=0)
    return min(two_loads, limits.load_timeout) if limits.load_timeout else two_loads


def _remember(sibling: Sibling, record: Record, now: float) -> Record:
    if sibling.is_there and sibling.identity != record.identity:
        record = replace(record, identity=sibling.identity, since=now)
    if sibling.is_there and sibling.loaded:
        record = replace(record, failures=0, next_end=0.0)
    return record


def _why_unloaded(sibling: Sibling, record: Record, now: float, limits: Limits) -> Reason | None:
    """Return why a worker has no application and will not have one; None if it has one, or may still load."""
    if not sibling.is_there or sibling.loaded:
        return None
    if sibling.requests > 0:
        plural = "" if sibling.requests == 1 else "s"
        text = f"it has no application, and answered {sibling.requests} request{plural} with 500"
        return Reason(Rule.FAILED_LOAD, text)
    patience = load_timeout(limits.load_timeout, record.failures)
    waited = now - record.since
    if 0 < patience <= waited:
        return Reason(Rule.LOAD_TIMEOUT, f"it has had no application for {waited:.0f} s")
    return None


def _state(sibling: Sibling, *, unloaded: bool) -> State:
    if not sibling.is_there:
        return State.EMPTY
    if sibling.loaded:
        return State.READY
    return State.UNLOADED if unloaded else State.LOADING


def _waits_for_the_last(
    siblings: Sequence[Sibling],
    states: Mapping[int, State],
    memory: Mapping[int, Record],
    now: float,
    limits: Limits,
) -> bool:
    """Return whether the worker that was ended last is still on its way: one after the other, so that loads do not pile up."""
    last = max(siblings, key=lambda sibling: memory[sibling.id].ended)
    record = memory[last.id]
    if not record.ended or last.cheap or now - record.ended >= turn(siblings, limits):
        return False
    is_another_process = record.since > record.ended
    return not (is_another_process and states[last.id] in (State.READY, State.UNLOADED))
