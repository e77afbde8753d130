"""What a person can do about a finding: some sentences for each code. Pure. docs/howto/alerting.md says more.

``SLOT`` stands for the number of a slot that the finding names, ``PID`` for the arbiter's pid, ``RELOAD`` for how a changed
option or setting comes into effect.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from django_workerguard.report.verdict import LEAVING, LONGEST_SILENCE

UWSGI = "uwsgi"  # the worker class on the board of contrib.uwsgi
SILENT = (
    "Look at State in /proc/PID/status. If it is T, `kill -CONT PID` lets the process go on. "
    "If it is D, repair the file system that the process waits for. Otherwise restart "
)
REMEDIES = {
    "arbiter-silent": f"{SILENT}the server.",
    "stand-in": "Remove the cause of the failed loads: the next try then succeeds by itself. A restart before that does not help.",
    "below-quorum": "See why slots are not ready: `workerguard explain SLOT`, `workerguard events`. Do not end the workers that are left.",
    "unloaded": "Remove the cause, then replace the worker: `workerguard recycle SLOT`",
    "gave-up": "Remove the cause, then start the server again, if its supervisor does not.",
    "frozen": "Remove the cause: the server makes the next try by itself. If it is the code, put code on the disk that loads, "
    "corrected or of the last release. Do not restart: the old code exists only in the memory of the workers.",
    "reload-refused": "Put settings and a configuration on the disk that can be used, corrected or of the last release: the server makes "
    "the next try by itself. Do not restart before: the old code exists only in the memory of the server.",
    "degraded": "Make the reload succeed. Until then do not end a worker: it cannot be replaced.",
    "load-failing": "Remove the cause: the server makes the next try by itself.",
    "cannot-start": "Remove the cause: free memory, processes or file descriptors. If no seat is free, look for requests that do "
    "not end: `workerguard requests`",
    "no-room": "Free memory, raise the limit, or use fewer workers.",
    "no-room-for-surge": "Raise the memory limit, or use fewer workers.",
    "mold-unfit": "Stop before the fork what the finding names, or set load=lazy, then RELOAD.",
    "mold-failing": "Remove the cause: the server makes the next try by itself. `workerguard explain 0` shows more.",
    "worker-stuck": "See where its threads wait: `workerguard stacks SLOT`. If they wait for a service, repair that. If not, "
    "`workerguard recycle SLOT` replaces the worker, and its requests are lost.",
    "request-overdue": "See where the request waits: `workerguard stacks SLOT`",
    "requests-shed": "End slow queries. If there are CPU and memory left, add workers: `workerguard scale N`",
    "suspect": "Read the application's log. If no other slot fails, replace the worker: `workerguard recycle SLOT`",
    "outlier": "Read the application's log of this process. To replace it now: `workerguard recycle SLOT`",
    "outlier-latency": "See what the worker does: `workerguard stacks SLOT`. To replace it now: `workerguard recycle SLOT`",
    "recycled-often": "If the rule has a limit that is too low, raise it, then RELOAD. If not, remove the cause: `workerguard explain SLOT`",
    "lifetime-below-load": "Raise max-worker-lifetime (hours are usual), then RELOAD.",
    "rss-limit-below-baseline": "Raise the limit well above the memory of a fresh worker, then RELOAD.",
    "evil-suspended": "Raise evil-reload-on-rss well above the memory of a fresh worker, then RELOAD.",
    "not-ended": "Read its pid in `workerguard events`, and State in /proc for it. If it is D, repair the file system that it waits for, "
    "or thaw its cgroup. If it is t, end the debugger that traces it.",
    "debug": "Set DEBUG = False in these settings, then RELOAD.",
    "monitor-failing": "Read the server's log: it says how the monitor ended.",
    "mixed-releases": "If no reload is going on, start one: `workerguard reload --wait`",
    "package-changed": "Restart the server.",
    "arbiter-errors": "Read the tracebacks in the server's log, and report them to django-workerguard.",
    "slow-load": "See where it is: `workerguard stacks SLOT`. If load-timeout is set, it ends the load.",
    "left-behind": "End it before the load ends, or name it in accept-left-behind if it is harmless, then RELOAD.",
    "part-not-loaded": "If the site uses this part, make it importable, then RELOAD.",
}
WHILE_STARTING = {"below-quorum": "Wait: the first loads have not ended yet."}
NOT_RETRIED = {
    "reload-refused": "Put settings and a configuration on the disk that can be used, corrected or of the last release, then RELOAD. "
    "Do not restart before: the old code exists only in the memory of the server."
}
NEEDS_RESTART = {
    "reload-refused": "Restart the server, so that it takes the change, or undo the change, then RELOAD."
}
OF_OLD_CODE = {  # a worker cannot be replaced then
    "arbiter-silent": f"{SILENT}the server, once the code on the disk loads: the old code exists only in the memory of the "
    "workers.",
    "worker-stuck": "See where its threads wait: `workerguard stacks SLOT`. If they wait for a service, repair that.",
    "requests-shed": "End slow queries.",
    "package-changed": "Make the reload succeed, then restart the server.",
    "suspect": "Read the application's log.",
    "outlier": "Read the application's log of this process.",
    "outlier-latency": "See what the worker does: `workerguard stacks SLOT`",
}
RESTART = "If it is the code, restart Celery's worker, which has the old code in its memory."
OF_POOL = {
    "arbiter-silent": f"{SILENT}Celery's worker.",
    "cannot-start": "Remove the cause: free memory, processes or file descriptors. If no seat is free, look for tasks that do "
    "not end: `celery -A PROJECT inspect active`",
    "load-failing": f"Remove the cause: the pool makes the next try by itself. {RESTART}",
    "unloaded": f"Remove the cause, then replace the child: `workerguard recycle SLOT`. {RESTART}",
    "mixed-releases": "Restart Celery's worker: a pool has no reload.",
    "package-changed": "Restart Celery's worker.",
}
OF_UWSGI = {
    "arbiter-silent": "If no worker is loaded, remove the cause, which uWSGI's log shows, and reload uWSGI.",
    "unloaded": "Remove the cause, which uWSGI's log shows: the guard ends the worker after its back-off.",
    "load-failing": "Remove the cause, which uWSGI's log shows: uWSGI starts the next worker by itself.",
    "slow-load": "Wait: if load-timeout is set, the guard ends the worker after it.",
}
FIRST = ("arbiter-silent", "gave-up")  # what can be done although the server does nothing
RELOAD = "run `workerguard reload --wait`"


def remedy(code: str, snapshot: Mapping[str, Any], slot: int | None = None) -> str:
    """Return what to do about a finding, or an empty string if nothing is to be done. Commands are in backticks.

    ``slot`` is the number of the slot, if only one slot has such a finding.
    """
    arbiter = snapshot["arbiter"]
    if code not in FIRST and (arbiter["beat_age"] > LONGEST_SILENCE or arbiter["phase"] in LEAVING):
        return ""  # such a server starts no worker and obeys no command
    text = next((texts[code] for texts in _texts(snapshot) if code in texts), "")
    text = text.replace("PID", str(arbiter["pid"]))
    if slot is not None:
        text = text.replace("SLOT", str(slot))
    if snapshot["kind"] == "celery":
        text = text.replace("RELOAD", "restart Celery's worker")
        name = f" --name {shlex.quote(snapshot['name'])}" if snapshot["name"] else ""  # of several on a host
        return re.sub(r"`(workerguard .+?)`", lambda command: f"`{command[1]} --celery{name}`", text)
    return text.replace("RELOAD", "reload uWSGI" if snapshot["worker_class"] == UWSGI else RELOAD)


def _texts(snapshot: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    if _is_starting(snapshot):
        yield WHILE_STARTING
    refused = snapshot["arbiter"]["refused_reload"]
    if refused and refused["needs_restart"]:
        yield NEEDS_RESTART
    elif refused and refused["next_try_in"] is None:
        yield NOT_RETRIED
    if needs_old_code(snapshot["arbiter"]):
        yield OF_OLD_CODE
    if snapshot["worker_class"] == UWSGI:
        yield OF_UWSGI
    if snapshot["kind"] == "celery":
        yield OF_POOL
    yield REMEDIES


def needs_old_code(arbiter: Mapping[str, Any]) -> bool:
    """Say whether the code on the disk cannot be loaded, so that a server that is restarted would not serve."""
    refused = arbiter["refused_reload"]
    return bool(arbiter["frozen"] or (refused and not refused["needs_restart"]))


def _is_starting(snapshot: Mapping[str, Any]) -> bool:
    """Say whether the quorum will be reached without anybody's help, as far as can be known."""
    loads = (*snapshot["slots"], *filter(None, (snapshot["mold"],)))
    return not snapshot["quorum_reached"] and not any(
        load["failures"] or load["not_spawned"] or load["no_room"] or load["state"] == "unloaded"
        for load in loads
    )


def as_text(remedy: str) -> str:
    """Return the line that shows a remedy."""
    return f"What to do: {remedy}"


def as_html(remedy: str) -> str:
    """Return the line that shows a remedy as HTML, with its commands as code."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escape(as_text(remedy)))
