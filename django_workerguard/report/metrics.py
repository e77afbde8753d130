"""The metrics of a server, out of its snapshot. Pure, and of no library's kind.

One list for the collector, the reference in the documentation and the alert rules. Labels are
slots, never pids, so that a series goes on when its worker is recycled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django_workerguard.report.findings import assess
from django_workerguard.scoreboard.layout import SlotState
from django_workerguard.scoreboard.tallies import LOAD_BUCKETS, LOAD_SECONDS

PREFIX = "workerguard"
STATES = tuple(state.name.lower() for state in SlotState)
Snapshot = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A metric: its kind (gauge, counter, histogram, info), its labels' names and its samples.

    A sample is the labels' values and a number; a histogram's samples are the upper bounds of its
    buckets, each with the count below it, and ``total`` is the sum of what was observed.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    samples: list[tuple[tuple[str, ...], float]] = field(default_factory=list)
    total: float = 0.0

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus stores it."""
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(self.name + ending for ending in endings.get(self.kind, ("",)))


def families(shot: Snapshot) -> Iterator[Family]:
    """Yield every metric of a server."""
    arbiter, slots = shot["arbiter"], shot["slots"]
    about = ("name", "host", "worker_class", "release")
    yield _of("info", "info", "Which server this is.", about, [(tuple(str(shot[key]) for key in about), 1)])
    yield _one("start_time_seconds", "When the arbiter was started, in Unix time.", arbiter["started_at"])
    yield _one("arbiter_silence_seconds", "How long ago the arbiter's last tick was.", arbiter["beat_age"])
    yield _of(
        "arbiter_errors", "counter", "Errors of the arbiter's own, survived.", (), [((), arbiter["errors"])]
    )
    yield _one("target_workers", "Workers that there are to be.", shot["target"])
    yield _one("ready_workers", "Slots whose worker is ready.", shot["ready"])
    yield _one(
        "quorum_workers", "min-loaded: so many ready workers make the server ready.", shot["min_loaded"]
    )
    yield _of(
        "workers",
        "gauge",
        "Slots by state.",
        ("state",),
        [((state,), sum(slot["state"] == state for slot in slots)) for state in STATES],
    )
    yield _one("generation", "Counts the reloads since the arbiter's start.", arbiter["generation"])
    yield _one(
        "frozen", "1 while the newest generation cannot be loaded and an older one serves.", arbiter["frozen"]
    )
    yield _one("stand_in_on_duty", "1 while nobody is loaded and 503 is answered.", shot["stand_in"])
    yield from _counts(shot["tallies"])
    yield from _slots(slots)
    if shot["backlog"] is not None:
        yield _one("listen_backlog_connections", "Connections that wait to be accepted.", shot["backlog"])
    yield _findings(shot)


# what a pool of tasks has, under the name that it has there, and what it is there where a task is no request
OF_TASKS = {
    "start_time_seconds": ("start_time_seconds", "When Celery's worker was started, in Unix time."),
    "arbiter_silence_seconds": ("silence_seconds", "How long ago Celery's main process last looked around."),
    "target_workers": ("target_children", "Children that there are to be."),
    "ready_workers": ("ready_children", "Slots whose child is ready."),
    "workers": ("children", ""),
    "load_failures": ("load_failures", "Loads of children that failed, by cause."),
    "exits": ("exits", "Children that ended, by cause."),
    "recycles": ("recycles", "Children asked to leave for a replacement, by rule."),
    "load_duration_seconds": ("load_duration_seconds", ""),
    "requests": ("tasks", "Tasks that have ended."),
    "responses_5xx": ("failed_tasks", "Tasks that failed."),
    "requests_in_flight": ("running_tasks", "Tasks under way."),
    "resident_memory_bytes": ("resident_memory_bytes", "Resident memory of the slot's child."),
    "slot_exits": ("slot_exits", "Children of the slot that ended."),
    "load_failures_in_a_row": ("load_failures_in_a_row", ""),
    "back_off_seconds": ("back_off_seconds", ""),
    "findings": ("findings", ""),
}


def families_of_pools(shots: Iterable[Snapshot]) -> Iterator[tuple[str, Family]]:
    """Yield the metrics of Celery's pools, each with its pool's name; those of one name after one another."""
    found = [(str(shot["name"]), family) for shot in shots for family in families(shot)]
    for name, (called, text) in OF_TASKS.items():
        for pool, family in found:
            if family.name == f"{PREFIX}_{name}":
                yield pool, replace(family, name=f"{PREFIX}_pool_{called}", help=text or family.help)


def _counts(tallies: Mapping[str, Any]) -> Iterator[Family]:
    for name, tally, label, text in (
        ("load_failures", "load_failures", "cause", "Loads of the application that failed, by cause."),
        ("exits", "exits", "cause", "Worker processes that ended, by cause."),
        ("recycles", "recycles", "rule", "Workers asked to leave for a replacement, by rule."),
    ):
        yield _of(name, "counter", text, (label,), [((key,), count) for key, count in tallies[tally].items()])
    below = 0
    buckets: list[tuple[tuple[str, ...], float]] = []
    for bound in LOAD_BUCKETS:
        below += tallies["loads"][bound]
        buckets.append(((bound,), below))
    text = "How long loads took that succeeded, from the fork to the end of the warm-up."
    yield Family(f"{PREFIX}_load_duration_seconds", "histogram", text, (), buckets, tallies[LOAD_SECONDS])


def _slots(slots: Iterable[Mapping[str, Any]]) -> Iterator[Family]:
    for name, kind, key, text in (
        ("requests", "counter", "requests", "Requests that have ended."),
        ("responses_5xx", "counter", "errors_5xx", "Requests that ended in 5xx."),
        ("requests_in_flight", "gauge", "in_flight", "Requests under way."),
        ("resident_memory_bytes", "gauge", "rss_bytes", "Resident memory of the slot's worker."),
        ("slot_generation", "gauge", "generation", "The generation of the slot's worker."),
        ("slot_exits", "counter", "exits", "Worker processes of the slot that ended."),
        ("load_failures_in_a_row", "gauge", "failures", "Failed loads since the last that succeeded."),
        (
            "back_off_seconds",
            "gauge",
            "next_try_in",
            "Until the slot's next try to load; 0 where none is due.",
        ),
    ):
        yield _of(name, kind, text, ("slot",), [((str(slot["slot"]),), slot[key] or 0) for slot in slots])


def _findings(shot: Snapshot) -> Family:
    counts: dict[tuple[str, ...], float] = {}
    for finding in assess(shot):
        key = (finding.code, finding.severity)
        counts[key] = counts.get(key, 0) + 1
    text = "What a person should know, by code and severity; how many slots it concerns."
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
