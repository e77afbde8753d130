"""The figure of memory-margin: 8 workers of 60 MB in a cgroup with room for 8.5, three killed; beside it without the margin.

Runs by hand, as root: ``python -m tests.process.room_runs [RUNS]``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.process.harness import PROJECT, Server, WaitError
from tests.process.limits import limit_file
from tests.process.room import MB, inside, leave, oom_kills, pids

WORKERS, KILLED = 8, 3
KEPT = 30  # MB, beside the 30 MB that a worker of this project has anyway
PEAKS = {  # MB
    "a load needs what the worker keeps": KEPT,
    "a load needs 12 MB more than the worker keeps": KEPT + 12,
    "a load needs 30 MB more than the worker keeps": KEPT + 30,
}
MARGINS = {"memory-margin=16": "16", "memory-margin=0 (as before)": "0"}


@contextlib.contextmanager
def new_group():
    parent = Path("/sys/fs/cgroup/memory")
    group = (parent if parent.is_dir() else Path("/sys/fs/cgroup")) / f"workerguard-runs-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        while (group / "cgroup.procs").read_text():
            time.sleep(0.05)
        group.rmdir()


def run(margin: str, peak: int) -> tuple[int, float]:
    """Return the OOM kills of one run, and the seconds until all workers are ready again."""
    with new_group() as group, tempfile.TemporaryDirectory() as directory:
        faults = Path(directory, "faults")
        faults.mkdir()
        server = Server(
            PROJECT,
            Path(directory, "run"),
            (
                "-w",
                str(WORKERS),
                "--load-concurrency",
                "8",
                "--memory-margin",
                margin,
                "--load-retry-max-delay",
                "30",
            ),
            environ={
                "DJANGO_SETTINGS_MODULE": "guinea_settings",
                "GUINEA_FAULTS": str(faults),
                "GUINEA_WEIGHT": f"{peak} {KEPT} 0.3",
            },
            prefix=inside(group),
        ).start()
        try:
            server.wait_ready()
            leave(server, group, 30 * MB)
            begun, killed = time.monotonic(), server.pids()[-KILLED:]
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            server.wait(
                "all of them",
                lambda status: status["ready"] == WORKERS and not {*killed} & pids(status),
                timeout=90,
            )
            return oom_kills(group), time.monotonic() - begun
        except WaitError:
            return oom_kills(group), float("inf")
        finally:
            limit_file(group).write_text(str(4096 * MB))
            server.stop()
            server.end()


def main(runs: int) -> None:
    """Run each case in turn, so that all of them meet the same machine."""
    seen: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for number in range(runs):
        for what, peak in PEAKS.items():
            for name, margin in MARGINS.items():
                seen.setdefault((what, name), []).append(run(margin, peak))
        print(f"after run {number + 1}:")
        for (what, name), results in seen.items():
            kills, times = [kills for kills, _ in results], sorted(seconds for _, seconds in results)
            print(
                f"  {what}; {name}: {sum(map(bool, kills))} of {len(kills)} runs with an OOM kill ({sum(kills)} kills), "
                f"all {WORKERS} ready again after {times[len(times) // 2]:.1f} s (median), {times[-1]:.1f} s (longest)",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
