"""The acts: each makes one fault from outside while the load runs, and waits until all workers are ready again.

Runs in the drill's process. An act knows nothing of the server but what every server under the drill can do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from django_workerguard.drill.cgroup import MemoryGroup
from django_workerguard.drill.servers import Server
from django_workerguard.values import value_class

CALM = "calm"  # the act without a fault
FAILURES = 3  # loads of a replacement that fail
INTERVAL = 0.05  # seconds between two looks
ROOM = 8 << 20  # bytes that the shortage of memory leaves free; a load needs more, the serving workers less
RECLAIM = 1.0  # seconds that the kernel gets to drop the page cache


class SkippedError(Exception):
    """The act cannot be played here. The message says why."""


@value_class
class Lengths:
    """Seconds of an act's parts."""

    calm: float = 3.0  # the load without any fault
    hold: float = 2.0  # a fault that goes on: the broken reload, the shortage of memory
    before: float = 0.5
    after: float = 1.0
    patience: float = 60.0  # until all workers have to be ready again


@dataclass
class Stage:
    """What an act plays on, and what it leaves."""

    server: Server
    faults: Path
    lengths: Lengths
    group: MemoryGroup | None = None
    no_group: str = ""  # why there is no cgroup
    kills: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fault: float | None = None
    back: float | None = None
    ends_with_server: bool = False

    def happens(self) -> None:
        """Note that the fault is made now."""
        self.fault = time.time()

    def kill(self) -> int:
        """Kill a ready worker with SIGKILL, as the kernel's OOM killer does, and return its pid."""
        pid = min(self.server.ready_pids(), default=0)
        if not pid:
            raise SkippedError("no worker is ready")
        self.kills.append(time.time())
        os.kill(pid, signal.SIGKILL)
        return pid

    def break_loads(self, kind: str, times: int) -> None:
        """Make the next loads fail in one way."""
        taken = self.faults / "taken"
        taken.write_text("")
        taken.chmod(0o666)  # the workers may belong to another user
        new = self.faults / "fault.new"
        new.write_text(f"{kind} {times}")
        new.chmod(0o644)
        new.rename(self.faults / "fault")

    def repair(self) -> None:
        """Let loads succeed again."""
        (self.faults / "fault").unlink(missing_ok=True)

    def failed_loads(self) -> int:
        """Return the number of loads that have failed by the fault."""
        with contextlib.suppress(OSError):
            return len((self.faults / "taken").read_text().splitlines())
        return 0

    def wait(self, condition: Callable[[], bool], what: str) -> bool:
        """Wait for a condition. Return False, and note the failure, if it is not met in time or the server ends."""
        deadline = time.monotonic() + self.lengths.patience
        while not self.server.has_ended:
            if condition():
                return True
            if time.monotonic() > deadline:
                self.failures.append(f"{what}: not within {self.lengths.patience:g} s")
                return False
            time.sleep(INTERVAL)
        if not self.ends_with_server:
            self.failures.append("the server has ended")
            self.ends_with_server = True
        return False

    def wait_replaced(self, pids: set[int]) -> None:
        """Wait until none of these workers is there and all are ready."""

        def replaced() -> bool:
            if self.server.ready_count() < self.server.target:  # it costs less than the pids
                return False
            ready = self.server.ready_pids()
            return len(ready) >= self.server.target and not pids & ready

        if self.wait(replaced, "all workers ready again"):
            self.back = time.time()

    def wait_failed_loads(self, number: int) -> None:
        self.wait(lambda: self.failed_loads() >= number, f"{number} failed loads")


def calm(stage: Stage) -> None:
    """Only the load: what the site answers without any fault."""
    stage.happens()
    time.sleep(stage.lengths.calm)
    stage.back = stage.fault


def kill(stage: Stage) -> None:
    """One worker is killed."""
    stage.happens()
    stage.wait_replaced({stage.kill()})


def failing_loads(stage: Stage) -> None:
    """One worker is killed, and the first loads of its replacement fail."""
    stage.break_loads("memory", FAILURES)
    stage.happens()
    pid = stage.kill()
    stage.wait_failed_loads(FAILURES)
    stage.wait_replaced({pid})


def hanging_load(stage: Stage) -> None:
    """One worker is killed, and the load of its replacement hangs."""
    stage.break_loads("hang", 1)
    stage.happens()
    pid = stage.kill()
    stage.wait_failed_loads(1)
    stage.wait_replaced({pid})


def broken_reload(stage: Stage) -> None:
    """A reload whose code cannot be loaded: the old workers have to stay until it can."""
    old = stage.server.ready_pids()
    stage.break_loads("exception", 1_000_000)
    stage.happens()
    stage.server.reload()
    stage.wait_failed_loads(1)
    time.sleep(stage.lengths.hold)
    if not stage.server.has_ended and not old <= stage.server.ready_pids():
        stage.failures.append("an old worker was replaced although the new code cannot be loaded")
    stage.repair()
    stage.fault = time.time()  # it is from the repair that the reload can succeed
    stage.wait_replaced(old)


def reload(stage: Stage) -> None:
    """A reload that succeeds."""
    old = stage.server.ready_pids()
    stage.happens()
    stage.server.reload()
    stage.wait_replaced(old)


def recycle(stage: Stage) -> None:
    """One worker is replaced on request."""
    stage.happens()
    stage.wait_replaced({stage.server.recycle()})


def memory(stage: Stage) -> None:
    """One worker is killed, and there is no memory for a replacement."""
    group = stage.group
    if group is None:
        raise SkippedError(stage.no_group)
    killed = group.oom_kills()
    stage.happens()
    # it is stopped for a moment, so that it looks for memory when there is none
    os.kill(stage.server.pid, signal.SIGSTOP)
    try:
        pid = stage.kill()
        stage.wait(lambda: has_freed_memory(pid), "the killed worker has freed its memory")
        _limit(group)
    finally:
        os.kill(stage.server.pid, signal.SIGCONT)
    time.sleep(stage.lengths.hold)
    if pid not in (ready := stage.server.ready_pids()) and len(ready) >= stage.server.target:
        stage.notes.append("the load of the replacement fitted into what was left")
    group.limit(None)
    stage.wait_replaced({pid})
    if killed := group.oom_kills() - killed:
        stage.failures.append(f"the kernel killed {killed} more of its processes because memory ran out")


def has_freed_memory(pid: int) -> bool:
    """Return whether a process is gone, or is only an entry that its parent has not read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _limit(group: MemoryGroup) -> None:
    """Leave little room in a cgroup. The kernel refuses while it still drops the page cache."""
    deadline = time.monotonic() + RECLAIM
    while True:
        try:
            group.limit(group.used() + ROOM)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SkippedError(f"the limit of the cgroup cannot be set: {error.strerror}") from None


@value_class
class Act:
    """An act, and how many ready workers may be missing at a time."""

    name: str
    play: Callable[[Stage], None]
    missing: int  # in acts that are planned changes: with surge=0 one may be missing
    title: str

    @property
    def is_planned(self) -> bool:
        return not self.missing


ACTS = {
    act.name: act
    for act in (
        Act(CALM, calm, 0, "the load alone"),
        Act("kill", kill, 1, "a worker is killed"),
        Act(
            "failing-loads", failing_loads, 1, f"a worker is killed, {FAILURES} loads of its replacement fail"
        ),
        Act("hanging-load", hanging_load, 1, "a worker is killed, the load of its replacement hangs"),
        Act("broken-reload", broken_reload, 0, "a reload whose code cannot be loaded"),
        Act("reload", reload, 0, "a reload that succeeds"),
        Act("recycle", recycle, 0, "a worker is replaced on request"),
        Act("memory", memory, 1, "a worker is killed, and there is no memory for another"),
    )
}
