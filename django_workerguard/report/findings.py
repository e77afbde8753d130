"""Findings: the conditions of a server that a person should know, from a snapshot. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from django_workerguard.config.text import duration, in_megabytes
from django_workerguard.report.remedies import UWSGI, needs_old_code, remedy
from django_workerguard.report.verdict import LEAVING, LONGEST_SILENCE
from django_workerguard.values import value_class

SLOW_LOAD = 15.0  # seconds; a load that takes longer, and three times as long as any other, may hang
SERVES = ("ready", "retiring", "unloaded")  # states of a slot whose worker answers
SOON = 0.1  # seconds; a next try that is closer is not mentioned
OF_MOLD = ("mold-unfit", "mold-failing")  # codes of findings that concern the mold


@value_class
class Finding:
    """A condition that a person should know.

    ``code`` is fixed; ``slot`` is None if it concerns the whole server; ``remedy`` says what to do, and is empty if nothing is.
    """

    severity: str  # critical, warning, notice
    code: str
    slot: int | None
    text: str
    remedy: str = ""


def assess(snapshot: Mapping[str, Any]) -> list[Finding]:
    """List the findings, the worst first, each with what to do about it."""
    order = {"critical": 0, "warning": 1, "notice": 2}
    found = sorted((*_server(snapshot), *_slots(snapshot)), key=lambda finding: order[finding.severity])
    several = {code for code, count in Counter(finding.code for finding in found).items() if count > 1}
    return [
        replace(
            finding, remedy=remedy(finding.code, snapshot, None if finding.code in several else finding.slot)
        )
        for finding in found
    ]


def gave_up(snapshot: Mapping[str, Any], reason: str) -> Finding:
    """Return the finding of a server that ends because it cannot load the application, or cannot fork it (load=mold)."""
    return Finding("critical", "gave-up", None, reason, remedy("gave-up", snapshot))


def with_findings(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the snapshot with its findings: the document of ``status --json``."""
    return {**snapshot, "findings": [asdict(finding) for finding in assess(snapshot)]}


def _server(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    arbiter = snapshot["arbiter"]
    ready, target, quorum = snapshot["ready"], snapshot["target"], snapshot["min_loaded"]
    if arbiter["beat_age"] > LONGEST_SILENCE:
        yield Finding("critical", "arbiter-silent", None, _silence(snapshot))
    if snapshot["stand_in"]:
        yield Finding("critical", "stand-in", None, "no worker is loaded: the stand-in answers 503")
    elif ready < quorum:
        text = f"{ready} of {target} workers are ready, {quorum} needed"
        yield Finding("critical" if snapshot["quorum_reached"] else "warning", "below-quorum", None, text)
    if arbiter["phase"] in LEAVING:
        yield Finding("notice", arbiter["phase"], None, f"the server is {arbiter['phase']}")
    if arbiter["errors"]:
        plural = "" if arbiter["errors"] == 1 else "s"
        text = f"the arbiter has survived {arbiter['errors']} internal error{plural}: see its log"
        yield Finding("warning", "arbiter-errors", None, text)
    yield from _reload(snapshot)
    if snapshot["monitor_failures"]:
        count = snapshot["monitor_failures"]
        times = "once" if count == 1 else f"{count} times in a row"
        text = f"the monitor has failed {times}: it ended, or could not be started; it is started again after a back-off"
        yield Finding("warning", "monitor-failing", None, text)
    yield from _mold(snapshot)
    if snapshot.get("debug"):
        text = f"the settings {snapshot['settings']} have DEBUG = True: visitors see error pages with code and values"
        yield Finding("warning", "debug", None, text)
    yield from _limits(snapshot)
    if snapshot["shed"]:
        number = snapshot["shed"]
        text = (
            f"{number} request{'' if number == 1 else 's'} of the last minute waited longer than queue-timeout and got a 503: "
            "there are too few workers for the load"
        )
        yield Finding("warning", "requests-shed", None, text)
    outdated = sorted({name for slot in snapshot["slots"] for name in slot["outdated"]})
    if outdated:
        text = (
            f"{', '.join(outdated)}: changed on disk since the server started; "
            "the workers continue with the version from the start. "
            f"Restart the server{', once the reload has succeeded,' if needs_old_code(arbiter) else ''} to run the new version"
        )
        yield Finding("warning", "package-changed", None, text)
    if snapshot["release"] == "mixed":
        releases = sorted({slot["release"] for slot in snapshot["slots"] if slot["release"]})
        yield Finding(
            "warning", "mixed-releases", None, f"the workers run different releases: {', '.join(releases)}"
        )


def _reload(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings about a reload that cannot go on."""
    arbiter = snapshot["arbiter"]
    if arbiter["frozen"]:
        loads = (*snapshot["slots"], *filter(None, (snapshot["mold"],)))
        failing = next((load for load in loads if load["failures"] or load["not_spawned"]), None)
        why = f" ({_why(failing)}{_next(failing)})" if failing else ""
        text = f"frozen: generation {arbiter['generation']} cannot be loaded{why}; the previous generation continues to serve"
        yield Finding("warning", "frozen", None, text)
        degraded = [
            slot["slot"]
            for slot in snapshot["slots"]
            if slot["state"] not in SERVES and (slot["failures"] or slot["not_spawned"])
        ]
        if degraded:
            slots = (
                f"slot {degraded[0]} has"
                if len(degraded) == 1
                else f"slots {', '.join(map(str, degraded))} have"
            )
            text = (
                f"{slots} no ready worker, because the old code can no longer be loaded: "
                f"{snapshot['ready']} of {snapshot['target']} workers serve until the reload succeeds"
            )
            yield Finding("warning", "degraded", None, text)
    refused = arbiter["refused_reload"]
    if refused is not None:
        text = f"the last reload was refused, and nothing has changed{_next(refused)}: {refused['reason']}"
        yield Finding("warning", "reload-refused", None, text)


def _silence(snapshot: Mapping[str, Any]) -> str:
    pid, silence = snapshot["arbiter"]["pid"], snapshot["arbiter"]["beat_age"]
    if snapshot["worker_class"] == UWSGI:
        return (
            f"no loaded worker of uWSGI (master pid {pid}) has looked at the others for {silence:.0f} s, so the numbers "
            "are old: if no worker is loaded, reload uWSGI, because no worker can end the unloaded ones"
        )
    return (
        f"the arbiter (pid {pid}) has shown no sign of life for {silence:.0f} s: it may hang, or be suspended"
    )


def _mold(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    mold = snapshot["mold"]
    if mold is None:
        return
    if snapshot["unfit"]:
        hazards = "; ".join(mold["hazards"]) or (mold["last_error"] or {}).get("message") or "see the log"
        then = "so each worker loads it by itself" if snapshot["load"] == "auto" else "so it is not used"
        text = f"no worker can be forked from the application ({hazards}), {then}"
        yield Finding("warning", "mold-unfit", None, text)
    elif mold["not_spawned"]:
        reason = (mold["last_error"] or {}).get("message", "unknown")
        text = f"the mold cannot be started: {reason}; {_tries(mold['not_spawned'])}{_next(mold)}"
        yield Finding("warning", "mold-failing", None, text)
    elif mold["no_room"]:
        yield Finding("warning", "no-room", None, f"the mold {_waits(mold)}")
    elif mold["failures"]:
        text = f"the mold cannot load the application: {_why(mold)}; {_tries(mold['failures'])}{_next(mold)}"
        yield Finding("warning", "mold-failing", None, text)


def _limits(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield findings about limits that the workers cannot meet."""
    limits, slots = snapshot["limits"], snapshot["slots"]
    lifetime = limits["max_worker_lifetime"]
    longest = max((slot["load_seconds"] or 0.0 for slot in slots), default=0.0)
    if lifetime and longest >= lifetime:
        text = f"max-worker-lifetime is {lifetime:g} s, but a load takes {longest:.1f} s: a worker is due for replacement as soon as it is ready"
        yield Finding("warning", "lifetime-below-load", None, text)
    largest = max((slot["rss_bytes"] for slot in slots), default=0)
    room = limits["memory_bytes"] - limits["memory_used_bytes"]
    waits = any(slot["no_room"] for slot in slots)  # which says more
    if limits["memory_bytes"] and limits["surge"] and largest * limits["surge"] > room and not waits:
        text = (
            f"surge is {limits['surge']} and a worker uses {in_megabytes(largest)}, but the memory limit of "
            f"{in_megabytes(limits['memory_bytes'])} leaves {in_megabytes(max(0, room))}: there may be no memory for a successor"
        )
        yield Finding("warning", "no-room-for-surge", None, text)


def _how_slow(slot: Mapping[str, Any], slots: Sequence[Mapping[str, Any]]) -> str:
    text = f"slot {slot['slot']} is slow and its peers are not"
    medians = sorted(one["latency"]["p50"] for one in slots if one["latency"] and one is not slot)
    if not slot["latency"] or not medians:
        return text
    peers = duration(medians[len(medians) // 2])
    return f"{text}: its median of the last minute is {duration(slot['latency']['p50'])}, theirs {peers}"


def _notes(slot: Mapping[str, Any], slots: Sequence[Mapping[str, Any]], limit: int) -> Iterator[Finding]:
    number, size = slot["slot"], in_megabytes(slot["rss_bytes"])
    if "rss_baseline" in slot["notes"]:
        text = f"slot {number}: reload-on-rss or evil-reload-on-rss is not applied: its limit is {in_megabytes(limit)}, and a fresh worker already uses as much or more ({size} now)"
        yield Finding("warning", "rss-limit-below-baseline", number, text)
    if "evil_suspended" in slot["notes"]:
        text = f"slot {number}: evil-reload-on-rss killed two workers right after their load, so it is suspended until the next reload"
        yield Finding("warning", "evil-suspended", number, text)
    if "not_ended" in slot["notes"]:
        text = f"slot {number}: the kernel does not end a process that was killed; it keeps its memory until it ends, and the slot can replace only one such process"
        yield Finding("warning", "not-ended", number, text)
    if often := slot["recycled_often"]:
        text = f"slot {number}: {often['rule']} replaces its workers again and again, more often than every five minutes"
        if often["view"]:
            text += f"; most of their memory was kept by {often['view']} (see workerguard memory)"
        yield Finding("warning", "recycled-often", number, text)
    if "outlier" in slot["notes"]:
        yield Finding("warning", "outlier", number, f"slot {number} answers 5xx and its peers do not")
    if "outlier_latency" in slot["notes"]:
        yield Finding("warning", "outlier-latency", number, _how_slow(slot, slots))
    if {"stuck", "stalled"} & set(slot["notes"]):
        oldest = slot["oldest_request"]
        what = f", such as {oldest['method']} {oldest['path']}" if oldest else ""
        text = f"slot {number} can serve no other request: every thread is busy with requests that do not end{what}"
        if "stalled" in slot["notes"]:
            text = (
                f"slot {number}: calls wait for an executor of the event loop, and none begins: "
                f"every thread of it is busy with calls that do not end{what}"
            )
        yield Finding("critical", "worker-stuck", number, text)
    elif "overdue" in slot["notes"]:
        text = f"slot {number} serves a request that has run too long: see workerguard requests"
        yield Finding("warning", "request-overdue", number, text)


def _slots(snapshot: Mapping[str, Any]) -> Iterator[Finding]:
    longest = max((slot["load_seconds"] or 0.0 for slot in snapshot["slots"]), default=0.0)
    for slot in snapshot["slots"]:
        number = slot["slot"]
        if (slot["loading_for"] or 0.0) > max(SLOW_LOAD, 3 * longest):
            text = f"slot {number}: the load has taken {slot['loading_for']:.0f} s so far and is in step {slot['step'] or 'unknown'}"
            text += f" (the other loads took at most {longest:.1f} s)" if longest else ""
            yield Finding("notice", "slow-load", number, text)
        yield from _notes(slot, snapshot["slots"], snapshot["limits"]["rss_bytes"])
        if slot["not_spawned"]:
            reason = (slot["last_error"] or {}).get("message", "unknown")
            tries = _tries(slot["not_spawned"])
            text = f"slot {number}: the worker process cannot be started: {reason}; {tries}{_next(slot)}"
            yield Finding("warning", "cannot-start", number, text)
        if slot["no_room"]:
            yield Finding("warning", "no-room", number, f"slot {number}: its next worker {_waits(slot)}")
        if slot["state"] == "unloaded":
            yield Finding("critical", "unloaded", number, f"slot {number} stays unloaded: {_why(slot)}")
        elif (
            slot["failures"]
            and not slot["not_spawned"]
            and not (snapshot["arbiter"]["frozen"] and slot["state"] == "ready")
        ):
            text = f"slot {number} cannot load the application: {_why(slot)}; {_tries(slot['failures'])}{_next(slot)}"
            yield Finding("warning", "load-failing", number, text)
        if slot["suspect"]:
            yield Finding(
                "warning",
                "suspect",
                number,
                f"slot {number}: all of its last requests ended in 5xx, the latest of them less than a minute ago",
            )
        for step in slot["load_steps"]:
            yield from _left_behind(number, step)
            yield from _skipped(number, step)


def _left_behind(number: int, step: Mapping[str, Any]) -> Iterator[Finding]:
    threads = [name for name in step["left"] if name.startswith("thread:")]
    sockets = [name for name in step["left"] if name not in threads]
    left = [_counted(names, word) for names, word in ((threads, "thread"), (sockets, "socket")) if names]
    if left:
        text = f"slot {number}: step {step['name']} left {' and '.join(left)} open"
        yield Finding("notice", "left-behind", number, text)


def _counted(names: list[str], word: str) -> str:
    plural = "" if len(names) == 1 else "s"
    return f"{len(names)} {word}{plural} ({', '.join(names)})"


def _skipped(number: int, step: Mapping[str, Any]) -> Iterator[Finding]:
    for part in step["skipped"]:
        text = (
            f"slot {number}: {part['part']} cannot be loaded in step {step['name']} and is left out: "
            f"{part['type']}: {part['message']}"
        )
        yield Finding("notice", "part-not-loaded", number, text)


def _why(slot: Mapping[str, Any]) -> str:
    error = slot["last_error"] or {}
    message = str(error.get("message", "")).partition("\n")[0][:200]
    return f"{error.get('type', 'unknown')}: {message}" if message else str(error.get("type", "unknown"))


def _waits(slot: Mapping[str, Any]) -> str:
    room, wait = slot["no_room"], slot["next_try_in"]
    even_so = f", and tried even so in {wait:.0f} s" if wait is not None and wait > SOON else ""
    return (
        f"waits for memory: with memory-margin it needs {in_megabytes(room['needed_bytes'])}, and "
        f"{in_megabytes(room['missing_bytes'])} are missing; it is started when there is room{even_so}"
    )


def _next(slot: Mapping[str, Any]) -> str:
    wait = slot["next_try_in"]
    return f", next try in {wait:.1f} s" if wait is not None and wait > SOON else ""


def _tries(count: int) -> str:
    return "1 try failed" if count == 1 else f"{count} tries failed"
