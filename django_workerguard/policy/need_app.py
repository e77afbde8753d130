"""need-app and give-up-after: when the server ends because it cannot load the application. Pure. Mirrors uWSGI's need-app."""

from __future__ import annotations

from django_workerguard.policy.mold import old_mold
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.policy.view import Fleet, Policy


def why_give_up(policy: Policy, fleet: Fleet, now: float) -> Reason | None:
    """Return the reason for which the server ends because it has no application; None if it does not."""
    since = fleet.nobody_ready_since
    if policy.give_up_after and since is not None and now - since >= policy.give_up_after:
        return Reason(Rule.GIVE_UP_AFTER, f"no worker was ready for {policy.give_up_after:g} s")
    if policy.never_give_up:
        return None
    if policy.load == "mold" and fleet.unfit and not fleet.ever_ready:
        hazards = fleet.last_failure.message if fleet.last_failure else ""
        text = f"load=mold, but no worker can be forked from the application: {hazards}"
        return Reason(Rule.UNFIT, text).adding("remove these, or set load=auto")
    slots = range(1, fleet.target + 1)
    used_up = [slot for slot in slots if _used_up(policy, fleet, slot, now)]
    if policy.need_app == "server" and used_up:
        return _no_app(policy, f"slot {used_up[0]} could not load")
    if policy.need_app == "worker" and not fleet.ever_ready and len(used_up) == len(slots):
        return _no_app(policy, "no slot could load")
    return None


def _no_app(policy: Policy, what: str) -> Reason:
    tries = policy.load_retries
    return Reason(Rule.NEED_APP, f"{what} the application in {tries} tries (need-app={policy.need_app})")


def _used_up(policy: Policy, fleet: Fleet, slot: int, now: float) -> bool:
    """Return whether a slot without a worker has used up its tries, its own or those of the mold.

    While an old mold forks, a new generation that cannot be loaded costs the slot nothing.
    """
    record = fleet.record(slot)
    if old_mold(fleet, now) is not None:
        failures = record.old_failures
    else:
        failures = max(record.failures, fleet.mold_record.failures)
    return failures >= policy.load_retries and fleet.incumbent(slot) is None
