"""What a person can do about a finding: a sentence or two for each code. Pure. docs/howto/alerting.md says more.

``SLOT`` stands for the number of a slot that the finding names. A code without a remedy needs none, or its text names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UWSGI = "uwsgi"  # the worker class on the board of contrib.uwsgi

REMEDIES = {
    "arbiter-silent": "Look at State in /proc/PID/status. If the process is stopped, kill -CONT lets it go on; otherwise restart the server",
    "stand-in": "Remove the cause of the failed loads: the next try then succeeds by itself. A restart before that does not help",
    "below-quorum": "Look at the slots that are not ready: their findings name the cause. Do not end the workers that are left",
    "unloaded": "Remove the cause, then replace the worker: workerguard recycle SLOT",
    "gave-up": "Remove the cause, then start the server again, or let systemd do so",
    "frozen": "Put code on the disk that loads, corrected or of the last release, then: workerguard reload --wait. "
    "Do not restart: the old code exists only in the memory of the workers",
    "degraded": "Make the reload succeed. Until then do not end a worker: it cannot be replaced",
    "load-failing": "Remove the cause: the server makes the next try by itself",
    "cannot-start": "Free memory, processes or file descriptors, or raise their limit: the server makes the next try by itself",
    "no-room": "Free memory, raise the limit, or use fewer workers",
    "no-room-for-surge": "Raise the memory limit, or use fewer workers",
    "mold-unfit": "End what the finding names before the fork, or set load=lazy",
    "mold-failing": "Remove the cause: the server makes the next try by itself",
    "worker-stuck": "See where its threads wait: workerguard stacks SLOT. Then replace it: workerguard recycle SLOT",
    "request-overdue": "See where it waits: workerguard stacks SLOT",
    "requests-shed": "End slow queries. If there are CPU and memory left, add workers: workerguard scale NUMBER",
    "suspect": "Read the application's log. If no other slot fails, replace the worker: workerguard recycle SLOT",
    "outlier": "Read the application's log of this process. To replace it now: workerguard recycle SLOT",
    "outlier-latency": "See what it does: workerguard stacks SLOT. To replace it now: workerguard recycle SLOT",
    "recycled-often": "Raise the limit of the rule, or remove what makes workers reach it so soon",
    "lifetime-below-load": "Raise max-worker-lifetime: hours are usual",
    "rss-limit-below-baseline": "Raise the limit well above the memory of a fresh worker",
    "evil-suspended": "Raise evil-reload-on-rss well above the memory of a fresh worker",
    "debug": "Set DEBUG = False in these settings",
    "monitor-failing": "Read the server's log, which says how it ended",
    "mixed-releases": "Reload, so that every worker runs one release: workerguard reload --wait",
    "arbiter-errors": "Read the tracebacks in its log, and report them to django-workerguard",
    "slow-load": "Wait, or let load-timeout end it: the log then shows where it hangs",
    "left-behind": "End it in the load. If it is harmless, name it in accept-left-behind",
    "part-not-loaded": "If the site uses this part, make it importable",
}
OF_POOL = {
    "arbiter-silent": "Look at State in /proc/PID/status. If the process is stopped, kill -CONT lets it go on; otherwise restart Celery's worker",
}
OF_UWSGI = {
    "arbiter-silent": "",  # the text says it
    "unloaded": "Remove the cause, which uWSGI's log shows: the guard ends the worker after its back-off",
}


def remedy(code: str, snapshot: Mapping[str, Any]) -> str:
    """Return what to do about a finding, or an empty string if nothing is to be done."""
    if snapshot["worker_class"] == UWSGI:
        return {**REMEDIES, **OF_UWSGI}.get(code, "")
    if snapshot["kind"] == "celery":
        return {**REMEDIES, **OF_POOL}.get(code, "").replace("SLOT", "SLOT --celery")
    return REMEDIES.get(code, "")
