"""The verdict on an act: what the guard promises, against what was measured. Pure."""

from __future__ import annotations

from django_workerguard.drill.measure import Measures
from django_workerguard.values import value_class

OK, FAILED, SKIPPED, NONE = "ok", "failed", "skipped", "-"


@value_class(kw_only=True)
class Promise:
    """What may be missing in an act. ``missing``: workers that may be missing from the target at a time.

    ``has_fault``: the act makes a fault, or replaces workers.
    """

    target: int
    missing: int
    has_fault: bool = True


@value_class
class Verdict:
    """``ok``, ``failed``, ``skipped``, or ``-`` (no verdict is given), and the reasons."""

    kind: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {'; '.join(self.reasons)}" if self.reasons else self.kind


def judge(promise: Promise, measures: Measures, failures: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict. ``failures``: what the act itself has seen to go wrong."""
    reasons = list(failures)
    unexplained = measures.lost - measures.in_hand
    if not measures.requests:
        reasons.append("no request was sent, so nothing is known")
    if unexplained:
        what = "request was" if unexplained == 1 else "requests were"
        reasons.append(f"{unexplained} {what} lost: {', '.join(measures.errors)}")
    least = max(0, promise.target - promise.missing)
    if measures.least_ready < least:
        reasons.append(
            f"only {measures.least_ready} of {promise.target} workers were ready, and {least} were promised"
        )
    if promise.has_fault and measures.back_after is None:
        reasons.append("the workers were not all ready again before the act ended")
    if reasons and not promise.has_fault:
        reasons.append("there was no fault, so the losses of the other acts may have the same cause")
    elif reasons and promise.target == 1:
        reasons.append(
            "the site has one worker, so nothing can answer while it is replaced; set workers to 2 or more"
        )
    return Verdict(FAILED if reasons else OK, tuple(reasons))
