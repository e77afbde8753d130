"""Verdict of a probe: yes or no, and the reason. Pure. Imports nothing heavier than the header."""

from __future__ import annotations

from django_workerguard.scoreboard.header import Phase, Vitals

KINDS = ("live", "ready", "startup")
LONGEST_SILENCE = 20.0  # seconds without a tick of the arbiter; it ticks every second
LEAVING = ("draining", "stopping")  # phases in which fewer and fewer workers are normal


def judge(kind: str, vitals: Vitals | None, *, loaded: bool | None, now: float) -> tuple[bool, str]:
    """Return the verdict of one probe, and the reason. Without a guarded server ``vitals`` is None.

    ``loaded`` says whether the worker that answers is loaded; None if a command answers. ``now`` is in seconds of the
    monotonic clock, as ``vitals.beat`` is.
    """
    if vitals is None:
        if kind == "live":
            return True, "the worker answers"
        return bool(loaded), "this worker is loaded" if loaded else "this worker is not loaded"
    silence = max(0.0, now - vitals.beat)
    if kind == "live":
        ticked = "a loaded worker looked at the others" if vitals.valid_for else "the arbiter ticked"
        return silence <= LONGEST_SILENCE, f"{ticked} {silence:.0f} s ago"
    if vitals.valid_for and silence > vitals.valid_for and kind == "ready" and not loaded:
        return False, f"no loaded worker has looked at the others for {silence:.0f} s"
    # the worker that answers is loaded, even if the arbiter has not counted it yet
    ready = max(vitals.ready, 1) if loaded else vitals.ready
    enough = ready >= max(vitals.quorum, 1)
    if kind == "startup":
        reached = vitals.reached or enough
        return reached, "the quorum has been reached since the start" if reached else _count(vitals, ready)
    if vitals.phase in (Phase.DRAINING, Phase.STOPPING):
        return False, "the server is stopping"
    if loaded is False:
        return False, "this worker is not loaded"
    return enough, _count(vitals, ready)


def _count(vitals: Vitals, ready: int) -> str:
    return f"{ready} of {vitals.target} workers ready, {vitals.quorum} needed"
