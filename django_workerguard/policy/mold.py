"""The molds: when one is started, which one a worker is forked from, and when one leaves. Pure.

A mold is one process per generation that has loaded the application and serves nothing. Its promises are held by
property tests: one mold per generation, a reload rolls only after its mold is ready, a worker is of the generation of
its mold, and a mold that dies, hangs or cannot load costs no ready worker.
"""

from __future__ import annotations

from collections.abc import Iterator

from django_workerguard.policy.action import Kill, Retire, SpawnMold
from django_workerguard.policy.backoff import load_timeout
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.strikes import may_be_taken_away
from django_workerguard.policy.view import Fleet, Policy, State, Worker
from django_workerguard.values import value_class

FORK_TIMEOUT = 5.0  # seconds that a mold has for a fork, which takes milliseconds
PATIENCE = 2  # failed starts, failed loads and early deaths of molds, or failed forks for a slot, in a row: then it loads by itself
LOADING = (State.LOADING, State.LOADED)


@value_class
class Source:
    """Where the next worker comes from. ``mold``: the seat of the mold that forks it; None: it loads by itself."""

    generation: int
    mold: int | None = None


def is_lazy(policy: Policy, fleet: Fleet) -> bool:
    """Return whether each worker of the newest generation loads by itself."""
    return policy.load == "lazy" or (policy.load == "auto" and fleet.unfit)


def source(policy: Policy, fleet: Fleet, now: float) -> Source | None:
    """Return where the worker of an empty slot comes from; None: it waits for the mold."""
    older = old_mold(fleet, now)
    return Source(older.generation, older.seat) if older else _newest_source(policy, fleet, now)


def old_mold(fleet: Fleet, now: float) -> Worker | None:
    """Return the mold that forks while the server is frozen, because no worker of the newest generation becomes ready."""
    older = [mold for mold in _able(fleet, now) if fleet.is_old_code(mold)]
    return max(older, key=lambda mold: mold.generation, default=None) if fleet.frozen else None


def _newest_source(policy: Policy, fleet: Fleet, now: float) -> Source | None:
    lazily = Source(fleet.generation)
    if is_lazy(policy, fleet):
        return lazily
    if able := _able(fleet, now):
        mold = max(able, key=lambda mold: mold.generation)
        return Source(mold.generation, mold.seat)
    return lazily if fleet.mold_record.strikes >= PATIENCE else None


def _able(fleet: Fleet, now: float) -> list[Worker]:
    """Return the molds that fork."""
    late = _late(fleet, now)
    return [mold for seat, mold in fleet.molds.items() if mold.state is State.READY and seat not in late]


def or_by_itself(fleet: Fleet, slot: int, where: Source) -> Source:
    """Return where the worker of one slot comes from: it loads by itself if the mold could not fork it PATIENCE times.

    The mold has proved that this generation can be loaded. A fork that failed for want of memory does not count: a load
    would need more.
    """
    refused = where.mold is not None and fleet.record(slot).not_forked >= PATIENCE
    return Source(where.generation) if refused and where.generation == fleet.generation else where


def source_of_successor(policy: Policy, fleet: Fleet, now: float) -> Source | None:
    """Return where a successor comes from: it is of the newest generation, whose load has been proved in the mold."""
    where = _newest_source(policy, fleet, now)
    if where is None or where.generation < fleet.generation:
        return None
    if where.mold is None and not is_lazy(policy, fleet) and not fleet.proven:
        return None
    return where


def loading(fleet: Fleet) -> list[Worker]:
    """Return the molds that load."""
    return [mold for mold in fleet.molds.values() if mold.state in LOADING]


def start(policy: Policy, fleet: Fleet, now: float) -> SpawnMold | None:
    """Return the start of the newest generation's mold, if it is due."""
    record = fleet.mold_record
    if is_lazy(policy, fleet) or newest(fleet) is not None or record.next_try > now:
        return None
    return SpawnMold(fleet.generation, load_timeout(policy.load_timeout, record.timeouts))


def newest(fleet: Fleet) -> Worker | None:
    """Return the mold of the newest generation, also one that ends; there is at most one that the kernel can end."""
    molds = (m for m in fleet.molds.values() if m.generation == fleet.generation and not m.not_ended)
    return next(molds, None)


def convertible(policy: Policy, fleet: Fleet) -> Worker | None:
    """Return the unfit mold that becomes a worker, if there is one.

    A mold that is killed does not become one, and neither does one that has still to answer for a fork: nobody would
    answer for it then.
    """
    mold = newest(fleet)
    if policy.load != "auto" or mold is None or mold.state is not State.UNFIT or mold.aborted is not None:
        return None
    return None if mold.killed is not None or mold.seat in fleet.forks_since else mold


def departures(policy: Policy, fleet: Fleet, now: float) -> Iterator[Retire]:
    """Yield the molds that leave: from which no worker will be forked any more, and which has nothing in hand."""
    for mold in sorted(fleet.molds.values(), key=lambda mold: mold.ordinal):
        if (
            mold.seat in fleet.forks_since
            or mold.state in (State.RETIRING, State.FAILED)
            or mold.aborted is not None
        ):
            continue
        reason = _why_out(policy, fleet, mold, now)
        if reason is not None:
            yield Retire(mold.seat, reason, quick=True)


def _why_out(policy: Policy, fleet: Fleet, mold: Worker, now: float) -> Reason | None:
    current = newest(fleet)
    if mold is current:
        if policy.load == "lazy":
            return Reason(Rule.NOT_NEEDED, "each worker loads by itself")
        if mold.state is State.UNFIT and (policy.load == "mold" or _is_served(fleet)):
            return Reason(Rule.UNFIT, "no worker can be forked from it")
        return None
    # the mold of the workers that are ready stays until one of the newest generation is: it alone has their code
    is_theirs = any(worker.generation == mold.generation for worker in fleet.of(State.READY))
    if mold.state in LOADING:
        superseded = fleet.ready >= fleet.target or may_be_taken_away(mold, fleet.mold_record, now)
    else:
        may_still_fork = fleet.ready < fleet.target and (current is None or current.state is not State.READY)
        superseded = bool(fleet.ready) and not is_theirs and not may_still_fork
    if superseded or fleet.proven:
        return Reason(Rule.NEWER_MOLD, f"generation {fleet.generation} has begun")
    return None


def _is_served(fleet: Fleet) -> bool:
    """Return whether every slot has a ready worker of the newest generation, so that no slot needs one more."""
    incumbents = (fleet.incumbent(slot) for slot in range(1, fleet.target + 1))
    return all(
        worker is not None and worker.state is State.READY and worker.generation == fleet.generation
        for worker in incumbents
    )


def hung(fleet: Fleet, now: float) -> Iterator[Kill]:
    """Yield the molds that have not forked in time."""
    for seat in sorted(_late(fleet, now)):
        mold = fleet.molds.get(seat)
        if mold is not None and mold.killed is None:
            yield Kill(seat, Reason(Rule.FORK_TIMEOUT, f"{FORK_TIMEOUT:g} s"))


def _late(fleet: Fleet, now: float) -> set[int]:
    """Return the seats of the molds that were asked for a worker too long ago."""
    return {seat for seat, since in fleet.forks_since.items() if now - since > FORK_TIMEOUT}
