"""workers=auto: the number of workers, from the CPUs and from the memory that a worker was measured to need. Pure."""

from __future__ import annotations

from typing import NamedTuple

from django_workerguard.config.text import in_megabytes
from django_workerguard.policy.room import need
from django_workerguard.policy.view import Fleet, Policy, State

PER_CPU = 2  # workers, if each serves one request at a time or a few; an event loop needs a CPU of its own
LEAST = 2  # workers, if memory allows: one serves while the other is replaced
# a worker's memory after a while, as a multiple of what its load needed, until workers keep more
GROWTH = 1.5
OWN_PART = 0.5  # of what the mold needed, that becomes a forked worker's own after a while


class Choice(NamedTuple):
    """A number of workers, and how it was found, for people."""

    workers: int
    reasoning: str


def by_cpus(cpus: int, *, event_loop: bool) -> int:
    """Return the number of workers that this number of CPUs can keep busy."""
    return max(LEAST, cpus * (1 if event_loop else PER_CPU))


def choose(policy: Policy, fleet: Fleet, cpus: int, *, event_loop: bool, most: int) -> Choice | None:
    """Choose the number of workers; None until a worker of the newest generation has been measured."""
    kind = next(
        (kind for kind in ("fork", "load") if fleet.sizes.get(kind, (0,))[0] == fleet.generation), None
    )
    if kind is None or fleet.reloading:
        return None
    number = by_cpus(cpus, event_loop=event_loop)
    reasons = [f"{cpus} CPU{'' if cpus == 1 else 's'} can keep {number} workers busy"]
    if fleet.free is None:
        reasons.append("it is not known how much memory is left")
    else:
        first = need(fleet, kind)
        kept = [first + max(0, one.rss - one.rss_at_first) for one in fleet.of(State.READY)]
        guessed = max(first * GROWTH, need(fleet, "mold") * OWN_PART if kind == "fork" else 0)
        size = max(1, int(max(guessed, sum(kept) / len(kept) if kept else 0)))
        whole = fleet.free + sum(kept)
        spare = policy.memory_margin + policy.surge * first
        fits = max(0, whole - spare) // size
        number = min(number, fits)
        reasons.append(
            f"the memory of {in_megabytes(whole)} has room for {fits}: a worker needed {in_megabytes(first)} and is taken to "
            f"grow to {in_megabytes(size)}, and {in_megabytes(spare)} are kept for successors and as margin"
        )
    least = max(1, policy.min_loaded)
    if not least <= number <= most:
        reasons.append(f"it must be from {least} to {most}")
    return Choice(max(least, min(number, most)), "; ".join(reasons))
