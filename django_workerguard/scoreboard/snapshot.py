"""A snapshot of a server: the versioned JSON that all readers use. Runs in readers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from django_workerguard.policy.reason import FOR_MEMORY, RECYCLES
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import (
    bounds_of,
    durations_as_dict,
    histograms,
    quantiles,
    queue_as_dict,
)
from django_workerguard.scoreboard.header import Header, LoadKind, Phase, ServerKind
from django_workerguard.scoreboard.in_hand import oldest_request
from django_workerguard.scoreboard.layout import Note, Seat, SeatState, Slot, SlotState
from django_workerguard.scoreboard.places import pools_of
from django_workerguard.scoreboard.tallies import read_tallies
from django_workerguard.scoreboard.view_memory import kept_most, views_of_slot

SNAPSHOT_VERSION = 1
PATIENCE = 0.25  # seconds, in which a busy machine lets an arbiter end a change: it waits for nothing in one
# what a slot's workers count: where it is for those that are gone or leaving
COUNTS = {
    "requests": Slot.REQUESTS,
    "errors_5xx": Slot.ERRORS_5XX,
    "in_flight": Slot.IN_FLIGHT,
    "shed": Slot.SHED,
    "gone": Slot.GONE,
}


def snapshot(board: Board) -> dict[str, Any]:
    """Read the whole board into plain values: durations in seconds, sizes in bytes, times in Unix seconds.

    It waits up to PATIENCE for a moment in which the arbiter changes nothing, so that the parts agree with each other.
    """
    words, deadline = board.words, time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before = words[Header.CHANGES]
        if not before % 2:
            shot = _read(board)
            if words[Header.CHANGES] == before:
                return shot
        time.sleep(0.0005)
    return _read(board)  # of an arbiter that is stopped in the middle of a change


def _read(board: Board) -> dict[str, Any]:
    words = board.words
    now = monotonic_ns()
    about = board.read_about()
    active = range(1, min(words[Header.TARGET], board.layout.slots) + 1)
    leaving = (
        n for n in range(len(active) + 1, board.layout.slots + 1) if words[board.layout.slot(n) + Slot.SEAT]
    )
    times, bounds = histograms(board, board.layout.slots), bounds_of(board)
    buckets = len(bounds) + 1
    slots = [
        {
            **_slot(board, number, now),
            "durations": durations_as_dict(times[number], buckets),
            "queue": queue_as_dict(times[number], buckets),
        }
        for number in (*active, *leaving)
    ]
    releases = {slot["release"] for slot in slots if slot["release"]}
    return {
        "version": SNAPSHOT_VERSION,
        "at": time.time(),
        "arbiter": {
            "pid": words[Header.PID],
            "generation": words[Header.GENERATION],
            "started_at": words[Header.STARTED_AT] / 1e6,
            "beat_age": (now - words[Header.BEAT]) / 1e9,
            "phase": Phase.NAMES[min(words[Header.PHASE], len(Phase.NAMES) - 1)],
            "errors": words[Header.ERRORS],
            "frozen": bool(words[Header.FROZEN]),
            "refused_reload": _refused_reload(board, now),
        },
        "kind": ServerKind.NAMES[min(words[Header.KIND], len(ServerKind.NAMES) - 1)],
        "host": about.get("host", ""),
        "name": about.get("name", ""),
        "project": about.get("project", ""),
        "bind": about.get("bind", []),
        "settings": about.get("settings", ""),
        "debug": bool(about.get("debug", False)),
        "worker_class": about.get("worker_class", ""),
        "release": releases.pop() if len(releases) == 1 else ("mixed" if releases else ""),
        "target": words[Header.TARGET],
        "ready": words[Header.READY],
        "min_loaded": words[Header.QUORUM],
        "quorum_reached": bool(words[Header.REACHED]),
        "stand_in": bool(words[Header.STAND_IN]),
        "monitor_failures": words[Header.MONITOR_FAILURES],
        "load": LoadKind.NAMES[min(words[Header.LOAD], len(LoadKind.NAMES) - 1)],
        "unfit": bool(words[Header.UNFIT]),
        "mold": _mold(board, now),
        "limits": {
            "max_worker_lifetime": words[Header.LIFETIME] / 1000,
            "rss_bytes": words[Header.RSS_LIMIT],
            "surge": words[Header.SURGE],
            "memory_bytes": words[Header.MEMORY_LIMIT],
            "memory_used_bytes": words[Header.MEMORY_USED],
            "memory_available_bytes": words[Header.AVAILABLE] - 1 if words[Header.AVAILABLE] else None,
        },
        "events": words[Header.EVENTS],
        "backlog": words[Header.BACKLOG] - 1 if words[Header.BACKLOG] else None,
        "tallies": read_tallies(board),
        "latency": quantiles(words, Header.P50),
        "queue": quantiles(words, Header.QUEUE_P50),
        "shed": words[Header.SHED],
        "utilisation": (words[Header.UTILISATION] - 1) / 1000 if words[Header.UTILISATION] else None,
        "duration_buckets": bounds,
        "slots": slots,
    }


def snapshots_of_pools(
    project: str, run_dir: str | None, *, environ: Mapping[str, str], uid: int
) -> list[dict[str, Any]]:
    """Return snapshots of a project's guarded Celery pools on this host that this user may read."""
    pools = pools_of(project, run_dir, environ=environ, uid=uid)
    try:
        return [snapshot(pool.board) for pool in pools]
    finally:
        for pool in pools:
            pool.board.close()


def _refused_reload(board: Board, now: int) -> dict[str, Any] | None:
    """Read why the last reload was refused; None if it was not, or if a later one has begun a generation."""
    words = board.words
    if not words[Header.REFUSED_AT]:
        return None
    return {
        "reason": board.read_refusal(),
        "at": words[Header.REFUSED_AT] / 1e6,
        "needs_restart": bool(words[Header.NEEDS_RESTART]),
        "next_try_in": _seconds_until(words[Header.NEXT_RELOAD], now),
    }


def _seconds_until(deadline: int, now: int) -> float | None:
    """Return the seconds until a deadline on the board; None if there is none."""
    return max(0.0, (deadline - now) / 1e9) if deadline else None


def _mold(board: Board, now: int) -> dict[str, Any] | None:
    """Read slot 0, the mold's; None if the server has none."""
    words, offset = board.words, board.layout.slot(0)
    if words[offset + Slot.STATE] == SlotState.EMPTY:
        return None
    seat = _seat(board, words[offset + Slot.SEAT], now)
    next_try = words[offset + Slot.NEXT_TRY]
    report = seat.get("report", {})
    last_error = board.read_last_error(0)
    # a mold that was found unfit has left, or is a worker now
    found_earlier = (last_error or {}).get("hazards", []) if words[Header.UNFIT] else []
    return {
        "pid": seat.get("pid"),
        "state": _name(words[offset + Slot.STATE]),
        "generation": words[offset + Slot.GENERATION],
        "since": words[offset + Slot.SINCE] / 1e6,
        "forks": seat.get("forks", 0),
        "hazards": report.get("hazards") or found_earlier,
        "rss_bytes": seat.get("rss", 0),
        "load_seconds": words[offset + Slot.LOAD_NS] / 1e9 if words[offset + Slot.LOAD_NS] else None,
        "load_steps": report.get("steps", []),
        "step": report.get("step"),
        "failures": words[offset + Slot.FAILURES],
        "not_spawned": words[offset + Slot.NOT_SPAWNED],
        "next_try_in": _seconds_until(next_try, now),
        "no_room": _no_room(words, offset),
        "last_error": last_error,
    }


def _slot(board: Board, number: int, now: int) -> dict[str, Any]:
    words = board.words
    offset = board.layout.slot(number)
    incumbent = _seat(board, words[offset + Slot.SEAT], now)
    successor = _seat(board, words[offset + Slot.SUCCESSOR], now)
    loads = successor or incumbent
    next_try = words[offset + Slot.NEXT_TRY]
    return {
        "slot": number,
        "pid": incumbent.get("pid"),
        "successor": successor.get("pid"),
        "mold": incumbent.get("mold"),
        "state": _name(words[offset + Slot.STATE]),
        "generation": words[offset + Slot.GENERATION],
        "since": words[offset + Slot.SINCE] / 1e6,
        **{
            name: words[offset + before] + incumbent.get(name, 0) + successor.get(name, 0)
            for name, before in COUNTS.items()
        },
        "waiting": incumbent.get("waiting", 0),
        "oldest_request": incumbent.get("oldest_request"),
        "loop_lag": incumbent.get("loop_lag"),
        "latency": quantiles(words, offset + Slot.P50),
        "suspect": incumbent.get("suspect", False),
        "notes": [note.name.lower() for note in Note(words[offset + Slot.NOTES] & ALL_NOTES) if note.name],
        "recycled_often": _recycled_often(board, number, words[offset + Slot.OFTEN]),
        "memory_errors": incumbent.get("memory_errors", 0),
        "rss_bytes": incumbent.get("rss", 0),
        "release": incumbent.get("release", ""),
        "load_seconds": words[offset + Slot.LOAD_NS] / 1e9 if words[offset + Slot.LOAD_NS] else None,
        "load_steps": incumbent.get("report", {}).get("steps", []),
        "outdated": loads.get("report", {}).get("outdated", []),
        "loading_for": (now - loads["loading_since"]) / 1e9 if loads.get("loading_since") else None,
        "step": loads.get("report", {}).get("step"),
        "exits": words[offset + Slot.EXITS],
        "failures": words[offset + Slot.FAILURES],
        "not_spawned": words[offset + Slot.NOT_SPAWNED],
        "next_try_in": _seconds_until(next_try, now),
        "no_room": _no_room(words, offset),
        "last_error": board.read_last_error(number),
    }


def _recycled_often(board: Board, slot: int, rule: int) -> dict[str, Any] | None:
    """Return the rule that replaces a slot's workers again and again; for memory, with the view that has kept the most."""
    if not 1 <= rule <= len(RECYCLES):
        return None
    name = RECYCLES[rule - 1]
    views = kept_most(views_of_slot(board, slot)) if name in FOR_MEMORY else []
    return {"rule": str(name), "view": views[0].view if views else None}


def _no_room(words: memoryview, offset: int) -> dict[str, int] | None:
    """Return what a slot that waits for memory needs; None if it does not wait."""
    needed, missing = words[offset + Slot.NEEDED], words[offset + Slot.MISSING]
    return {"needed_bytes": needed, "missing_bytes": missing} if needed else None


def _name(state: int) -> str:
    return SlotState(state).name.lower() if state < len(SlotState) else "unknown"


def _seat(board: Board, index_plus_one: int, now: int) -> dict[str, Any]:
    if not 1 <= index_plus_one <= board.layout.seats:
        return {}
    index = index_plus_one - 1
    offset = board.layout.seat(index)
    words = board.words
    loading = words[offset + Seat.PID] and words[offset + Seat.STATE] in (SeatState.NONE, SeatState.LOADING)
    return {
        "pid": words[offset + Seat.PID] or None,
        "loading_since": words[offset + Seat.SPAWNED] if loading else 0,
        "requests": words[offset + Seat.REQUESTS],
        "errors_5xx": words[offset + Seat.ERRORS_5XX],
        "in_flight": words[offset + Seat.IN_FLIGHT],
        "waiting": words[offset + Seat.WAITING],
        "shed": words[offset + Seat.SHED],
        "gone": words[offset + Seat.GONE],
        "memory_errors": words[offset + Seat.MEMORY_ERRORS],
        "loop_lag": _loop_lag(words[offset + Seat.LOOP_LAG], words[offset + Seat.LOOP_DUE], now),
        "oldest_request": oldest_request(board, index, now) if words[offset + Seat.IN_FLIGHT] else None,
        "suspect": is_suspect(words[offset + Seat.STREAK], now - words[offset + Seat.LAST_5XX]),
        "rss": words[offset + Seat.RSS],
        "mold": words[offset + Seat.MOLD] or None,
        "forks": words[offset + Seat.FORKS],
        "release": board.read_release(index),
        "report": board.read_seat_report(index),
    }


def _loop_lag(longest: int, due: int, now: int) -> float | None:
    """Return the delay of an event loop in seconds, also of one that blocks just now; None if there is no loop."""
    return max(longest, now - due, 0) / 1e9 if due else None


def is_suspect(streak: int, since: int) -> bool:
    """Return whether a worker is suspect: its last requests were all 5xx, the latest ``since`` nanoseconds ago. Pure."""
    return streak >= SUSPECT_AFTER and since < SUSPECT_FOR


SUSPECT_AFTER = 3
SUSPECT_FOR = 60_000_000_000  # ns; on a site without requests, only time can clear it
ALL_NOTES = sum(Note)
