"""Snapshots for the tests of what is built on them."""

from __future__ import annotations

import copy

from django_workerguard.scoreboard.tallies import LOAD_SECONDS, TALLIES

SLOT = {
    "slot": 1,
    "pid": 11,
    "successor": None,
    "mold": None,
    "state": "ready",
    "generation": 1,
    "since": 900.0,
    "requests": 5,
    "errors_5xx": 0,
    "in_flight": 0,
    "waiting": 0,
    "suspect": False,
    "notes": [],
    "recycled_often": None,
    "rss_bytes": 50 << 20,
    "release": "v1",
    "load_seconds": 0.5,
    "load_steps": [],
    "outdated": [],
    "loading_for": None,
    "step": None,
    "shed": 0,
    "gone": 0,
    "durations": {},
    "queue": None,
    "loop_lag": None,
    "oldest_request": None,
    "latency": None,
    "exits": 0,
    "failures": 0,
    "not_spawned": 0,
    "next_try_in": None,
    "no_room": None,
    "last_error": None,
}
MOLD = {
    "pid": 10,
    "state": "ready",
    "generation": 1,
    "since": 900.0,
    "forks": 3,
    "hazards": [],
    "rss_bytes": 60 << 20,
    "load_seconds": 0.5,
    "load_steps": [],
    "step": None,
    "failures": 0,
    "not_spawned": 0,
    "next_try_in": None,
    "no_room": None,
    "last_error": None,
}
WELL = {
    "version": 1,
    "kind": "web",
    "at": 1000.0,
    "arbiter": {
        "pid": 1,
        "generation": 1,
        "started_at": 0.0,
        "beat_age": 0.1,
        "phase": "serving",
        "errors": 0,
        "frozen": False,
        "refused_reload": None,
    },
    "limits": {
        "max_worker_lifetime": 0.0,
        "rss_bytes": 0,
        "surge": 1,
        "memory_bytes": 0,
        "memory_used_bytes": 0,
        "memory_available_bytes": None,
    },
    "host": "here",
    "name": "shop",
    "project": "/srv/shop",
    "bind": ["http://127.0.0.1:8000"],
    "worker_class": "sync",
    "release": "v1",
    "target": 1,
    "ready": 1,
    "min_loaded": 1,
    "quorum_reached": True,
    "stand_in": False,
    "monitor_failures": 0,
    "load": "lazy",
    "unfit": False,
    "mold": None,
    "events": 7,
    "backlog": 0,
    "tallies": {
        **{name: dict.fromkeys(labels, 0) for name, labels in TALLIES.items()},
        LOAD_SECONDS: 0.0,
    },
    "latency": None,
    "queue": None,
    "shed": 0,
    "utilisation": None,
    "duration_buckets": [0.1, 1.0],
    "slots": [SLOT],
}

ERROR = {"type": "MemoryError", "message": "no memory", "traceback": "Traceback…", "at": 950.0, "step": "app"}

LIMITS = WELL["limits"]


def changed(slot=None, arbiter=None, **server):
    shot = copy.deepcopy(WELL)
    shot["slots"][0].update(slot or {})
    shot["arbiter"].update(arbiter or {})
    shot.update(server)
    return shot
