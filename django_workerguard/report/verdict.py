"""What a probe is told: yes or no, and why. Pure. Imports nothing heavier than the header."""

from __future__ import annotations

from django_workerguard.scoreboard.header import Phase, Vitals

KINDS = ("live", "ready", "startup")
LONGEST_SILENCE = 20.0  # seconds without a tick of the arbiter; it ticks every second


def judge(kind: str, vitals: Vitals | None, *, loaded: bool, now: float) -> tuple[bool, str]:
    """Decide one probe; return yes or no, and why. ``vitals`` None: no guarded server, the worker alone counts.

    ``now`` is in seconds of the monotonic clock, as ``vitals.beat`` is.
    """
    if vitals is None:
        if kind == "live":
            return True, "the worker answers"
        return loaded, "this worker is loaded" if loaded else "this worker is not loaded"
    if kind == "live":
        silence = max(0.0, now - vitals.beat)
        return silence <= LONGEST_SILENCE, f"the arbiter ticked {silence:.0f} s ago"
    if kind == "startup":
        return vitals.reached, "the first quorum was reached" if vitals.reached else _count(vitals)
    if vitals.phase in (Phase.DRAINING, Phase.STOPPING):
        return False, "the server is stopping"
    if not loaded:
        return False, "this worker is not loaded"
    return vitals.ready >= vitals.quorum, _count(vitals)


def _count(vitals: Vitals) -> str:
    return f"{vitals.ready} of {vitals.target} workers ready, {vitals.quorum} needed"
