"""Metrics of a server, from its snapshot. Pure, and independent of any metrics library.

One list serves the collector, the reference in the documentation and the alert rules. Labels are
slots, never pids, so that a series continues when its worker is recycled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from itertools import accumulate
from typing import Any

from django_workerguard.report.findings import assess
from django_workerguard.scoreboard.layout import SlotState
from django_workerguard.scoreboard.tallies import LOAD_BUCKETS, LOAD_SECONDS
from django_workerguard.values import value_class

PREFIX = "workerguard"
STATES = tuple(state.name.lower() for state in SlotState if state is not SlotState.UNFIT)  # that a mold has
Snapshot = Mapping[str, Any]


@value_class
class Family:
    """A metric: its kind (gauge, counter, histogram, info), its labels' names and its samples.

    A sample is the labels' values and a number. A sample of a histogram has the upper bound of a bucket as its last value,
    and its number is the count below that; ``totals`` are the sums of all observed values, by the labels' values.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    totals: Mapping[tuple[str, ...], float] = field(default_factory=dict)

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names under which Prometheus stores it."""
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(self.name + ending for ending in endings.get(self.kind, ("",)))


def families(shot: Snapshot) -> Iterator[Family]:
    """Yield every metric of a server."""
    arbiter, slots = shot["arbiter"], shot["slots"]
    about = ("name", "host", "worker_class", "release")
    yield _of(
        "info",
        "info",
        "Name, host, worker class and release of the server.",
        about,
        [(tuple(str(shot[key]) for key in about), 1)],
    )
    yield _one("start_time_seconds", "Unix time at which the arbiter was started.", arbiter["started_at"])
    yield _one("arbiter_silence_seconds", "Seconds since the arbiter's last tick.", arbiter["beat_age"])
    yield _of(
        "arbiter_errors",
        "counter",
        "Internal errors that the arbiter has survived.",
        (),
        [((), arbiter["errors"])],
    )
    yield _one("target_workers", "Configured number of workers.", shot["target"])
    yield _one("ready_workers", "Number of slots whose worker is ready.", shot["ready"])
    yield _one(
        "quorum_workers",
        "min-loaded: number of ready workers required for the server to report ready.",
        shot["min_loaded"],
    )
    yield _of(
        "workers",
        "gauge",
        "Number of slots by state.",
        ("state",),
        [((state,), sum(slot["state"] == state for slot in slots)) for state in STATES],
    )
    yield _one("generation", "Current generation; each reload begins a new one.", arbiter["generation"])
    yield _one(
        "frozen", "1 while the newest generation cannot be loaded and an older one serves.", arbiter["frozen"]
    )
    yield _one(
        "reload_refused",
        "1 after a reload that was refused, until a reload begins a generation.",
        arbiter["refused_reload"] is not None,
    )
    yield _one("stand_in_on_duty", "1 while no worker is loaded and 503 is answered.", shot["stand_in"])
    yield from _mold(shot)
    yield from _counts(shot["tallies"])
    yield from _slots(slots)
    yield from _times(shot)
    if shot["backlog"] is not None:
        yield _one(
            "listen_backlog_connections", "Number of connections that wait to be accepted.", shot["backlog"]
        )
    if shot["limits"]["memory_available_bytes"] is not None:
        yield _one(
            "memory_available_bytes",
            "Memory that the server may still use, in its cgroup or on the machine.",
            shot["limits"]["memory_available_bytes"],
        )
    yield _of(
        "memory_missing_bytes",
        "gauge",
        "Memory that is missing before the slot's next process is started; 0: it does not wait for memory.",
        ("slot",),
        [((str(slot["slot"]),), (slot["no_room"] or {}).get("missing_bytes", 0)) for slot in slots],
    )
    yield _findings(shot)


def _mold(shot: Snapshot) -> Iterator[Family]:
    mold = shot["mold"]
    if mold is None:
        return
    yield _one(
        "mold_ready",
        "Only with load=mold or auto: 1 while workers can be forked from a mold.",
        mold["state"] == "ready",
    )
    yield _one("mold_unfit", "1 if no worker can be forked from the newest generation's mold.", shot["unfit"])
    kinds = Counter(hazard.partition(":")[0] for hazard in mold["hazards"])
    yield _of(
        "mold_hazards",
        "gauge",
        "Reasons for which no worker can be forked, by kind.",
        ("kind",),
        sorted(((kind,), number) for kind, number in kinds.items()),
    )
    yield _one("mold_forks", "Number of workers that were forked from the present mold.", mold["forks"])
    yield _one("mold_resident_memory_bytes", "Resident memory of the mold.", mold["rss_bytes"])
    yield _one("mold_load_failures_in_a_row", "Failed loads of the mold in a row.", mold["failures"])


# metrics of a pool of tasks, by the server's name: the pool's name, and the help text if it differs
POOL_METRICS = {
    "start_time_seconds": ("start_time_seconds", "Unix time at which Celery's worker was started."),
    "arbiter_silence_seconds": (
        "silence_seconds",
        "Seconds since the last sign of life of Celery's main process.",
    ),
    "target_workers": ("target_children", "Configured number of children."),
    "ready_workers": ("ready_children", "Number of slots whose child is ready."),
    "workers": ("children", ""),
    "load_failures": ("load_failures", "Failed loads of children, by cause."),
    "exits": ("exits", "Children that have ended, by cause."),
    "recycles": ("recycles", "Children that were asked to leave for a replacement, by rule."),
    "load_duration_seconds": ("load_duration_seconds", ""),
    "requests": ("tasks", "Tasks that have ended."),
    "responses_5xx": ("failed_tasks", "Tasks that have failed."),
    "requests_in_flight": ("running_tasks", "Tasks in progress."),
    "resident_memory_bytes": ("resident_memory_bytes", "Resident memory of the slot's child."),
    "slot_exits": ("slot_exits", "Children of the slot that have ended."),
    "load_failures_in_a_row": ("load_failures_in_a_row", ""),
    "back_off_seconds": ("back_off_seconds", ""),
    "findings": ("findings", ""),
}


def families_of_pools(shots: Iterable[Snapshot]) -> Iterator[tuple[str, Family]]:
    """Yield the metrics of Celery's pools, each with the name of its pool, grouped by metric."""
    all_families = [(str(shot["name"]), family) for shot in shots for family in families(shot)]
    for name, (pool_name, text) in POOL_METRICS.items():
        for pool, family in all_families:
            if family.name == f"{PREFIX}_{name}":
                yield pool, replace(family, name=f"{PREFIX}_pool_{pool_name}", help=text or family.help)


def _counts(tallies: Mapping[str, Any]) -> Iterator[Family]:
    for name, tally, label, text in (
        ("load_failures", "load_failures", "cause", "Failed loads of the application, by cause."),
        ("exits", "exits", "cause", "Worker processes that have ended, by cause."),
        (
            "requests_lost",
            "requests_lost",
            "cause",
            "Requests that a worker had in hand when it ended, by cause.",
        ),
        ("recycles", "recycles", "rule", "Workers that were asked to leave for a replacement, by rule."),
    ):
        yield _of(name, "counter", text, (label,), [((key,), count) for key, count in tallies[tally].items()])
    below = 0
    buckets: list[tuple[tuple[str, ...], float]] = []
    for bound in LOAD_BUCKETS:
        below += tallies["loads"][bound]
        buckets.append(((bound,), below))
    text = "Seconds that successful loads took, from the fork to the end of the warm-up."
    totals: dict[tuple[str, ...], float] = {(): float(tallies[LOAD_SECONDS])}
    yield Family(f"{PREFIX}_load_duration_seconds", "histogram", text, (), buckets, totals)


def _slots(slots: Iterable[Mapping[str, Any]]) -> Iterator[Family]:
    for name, kind, key, text in (
        ("requests", "counter", "requests", "Requests that have ended."),
        ("responses_5xx", "counter", "errors_5xx", "Requests that ended in 5xx."),
        ("requests_in_flight", "gauge", "in_flight", "Requests in progress."),
        (
            "requests_waiting",
            "gauge",
            "waiting",
            "Requests that the slot's worker has accepted and has no thread for yet; only of gthread.",
        ),
        ("resident_memory_bytes", "gauge", "rss_bytes", "Resident memory of the slot's worker."),
        ("slot_generation", "gauge", "generation", "Generation of the slot's worker."),
        ("slot_exits", "counter", "exits", "Worker processes of the slot that have ended."),
        ("load_failures_in_a_row", "gauge", "failures", "Failed loads since the last successful load."),
        (
            "back_off_seconds",
            "gauge",
            "next_try_in",
            "Seconds until the next try of the slot; 0 if no try is due.",
        ),
    ):
        yield _of(name, kind, text, ("slot",), [((str(slot["slot"]),), slot[key] or 0) for slot in slots])


def _times(shot: Snapshot) -> Iterator[Family]:
    """Yield the histograms of how long requests took and waited, and what follows from waiting."""
    durations = [
        ((str(slot["slot"]), status), histogram)
        for slot in shot["slots"]
        for status, histogram in slot["durations"].items()
    ]
    text = "Seconds from the start of a request until its response was sent, by slot and class of status."
    yield _histograms("request_duration_seconds", text, ("slot", "status"), durations, shot)
    waits = [((str(slot["slot"]),), slot["queue"]) for slot in shot["slots"] if slot["queue"]]
    text = "Seconds that a request waited before a worker took it up, where that is known."
    yield _histograms("request_queue_seconds", text, ("slot",), waits, shot)
    lags = [
        ((str(slot["slot"]),), slot["loop_lag"]) for slot in shot["slots"] if slot["loop_lag"] is not None
    ]
    text = "Longest delay of the slot's event loop in the last ten seconds or so; only of asynchronous worker classes."
    yield _of("event_loop_lag_seconds", "gauge", text, ("slot",), lags)
    refused = [
        ((str(slot["slot"]), reason), slot[key])
        for slot in shot["slots"]
        for reason, key in (("queue-timeout", "shed"), ("client-gone", "gone"))
    ]
    text = "Requests that were not served because they had waited too long, or because their client had gone."
    yield _of("requests_refused", "counter", text, ("slot", "reason"), refused)
    text = "Share of the ready workers' capacity that was busy in the last minute, from 0 to 1."
    busy = [] if shot["utilisation"] is None else [((), shot["utilisation"])]
    yield _of("utilisation_ratio", "gauge", text, (), busy)


def _histograms(
    name: str,
    text: str,
    names: tuple[str, ...],
    of: Iterable[tuple[tuple[str, ...], Mapping[str, Any]]],
    shot: Snapshot,
) -> Family:
    bounds = (*(repr(float(bound)) for bound in shot["duration_buckets"]), "+Inf")
    buckets: list[tuple[tuple[str, ...], float]] = []
    totals: dict[tuple[str, ...], float] = {}
    for labels, histogram in of:
        for bound, below in zip(bounds, accumulate(histogram["buckets"]), strict=True):
            buckets.append(((*labels, bound), below))
        totals[labels] = histogram["seconds"]
    return Family(f"{PREFIX}_{name}", "histogram", text, names, buckets, totals)


def _findings(shot: Snapshot) -> Family:
    counts: dict[tuple[str, ...], float] = {}
    for finding in assess(shot):
        key = (finding.code, finding.severity)
        counts[key] = counts.get(key, 0) + 1
    text = "Number of findings, by code and severity."
    return _of("findings", "gauge", text, ("code", "severity"), sorted(counts.items()))


def _one(name: str, text: str, value: float) -> Family:
    return _of(name, "gauge", text, (), [((), value)])


def _of(
    name: str,
    kind: str,
    text: str,
    labels: tuple[str, ...],
    samples: Iterable[tuple[tuple[str, ...], float]],
) -> Family:
    return Family(
        f"{PREFIX}_{name}", kind, text, labels, [(values, float(value)) for values, value in samples]
    )
