"""Replace workers by every cause, many times, and look whether the arbiter keeps anything it should have let go.

``python -m tests.process.soak [REPLACEMENTS]`` is `make soak`; the suite runs fifty.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from django_workerguard.scoreboard.control_client import ask
from django_workerguard.scoreboard.layout import Seat, Slot
from tests.process.harness import PROJECT, Faults, Server

OPTIONS = (
    *(
        "-w",
        "3",
        "--min-worker-lifetime",
        "0",
        "--load-retry-delay",
        "10ms",
        "--load-retry-max-delay",
        "50ms",
    ),
    *("--reload-on-rss", "120", "--evil-reload-on-rss", "300", "--load-retries", "1000000"),
    *("--max-requests", "90", "--outlier-min-requests", "20", "--load-timeout", "3"),
)
GROWTH = (
    4 << 20
)  # bytes of the arbiter's, after the first replacements; the journal's pages are touched by then


@dataclass(frozen=True)
class Footprint:
    """What the arbiter holds."""

    descriptors: int
    threads: int
    children: int
    seats: int
    memory: int

    @classmethod
    def of(cls, server: Server) -> Footprint:
        proc = Path(f"/proc/{server.arbiter}")
        told = (proc / "status").read_text()
        with server.board() as board:
            seats = sum(
                1 for index in range(board.layout.seats) if board.words[board.layout.seat(index) + Seat.PID]
            )
        return cls(
            descriptors=len(list((proc / "fd").iterdir())),
            threads=int(re.search(r"^Threads:\s+(\d+)", told, re.MULTILINE)[1]),
            children=len((proc / "task" / proc.name / "children").read_text().split()),
            seats=seats,
            memory=int(re.search(r"^RssAnon:\s+(\d+)", told, re.MULTILINE)[1]) << 10,
        )


def _size(found: Footprint) -> tuple[int, int]:
    return found.children, found.seats


class Soak:
    """One server, and the ways in which its workers are replaced."""

    def __init__(self, server: Server, faults: Faults) -> None:
        self.server = server
        self.faults = faults
        self.turns = 0

    def causes(self) -> Iterator[Callable[[], None]]:
        return cycle(
            [
                self.kill,
                self.recycle,
                self.fail,
                self.terminate,
                self.reload,
                self.grow,
                self.starve,
                self.scale,
                self.frozen,
                self.crash,
                self.hang,
                self.evil,
                self.serve,
                self.sicken,
            ]
        )

    def control(self, do: str, **arguments: object) -> None:
        path = next(path for path in self.server.run_dir.glob("*.sock") if path.name != "http.sock")
        assert ask(path, do, **arguments)["accepted"]

    @property
    def slot(self) -> int:
        return self.turns % 3 + 1

    @property
    def pid(self) -> int:
        return int(self.server.slot(self.slot)["pid"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def fail(self) -> None:
        self.faults.set("ready", "memory", 2)
        os.kill(self.pid, signal.SIGKILL)

    def recycle(self) -> None:
        self.control("recycle", slot=self.slot)

    def reload(self) -> None:
        self.server.signal(signal.SIGHUP)

    def frozen(self) -> None:
        self.faults.set("urlconf", "exception", 2)
        self.server.signal(signal.SIGHUP)

    def grow(self) -> None:
        self.server.get("/grow?mb=120")

    def starve(self) -> None:
        self.server.get("/starve")

    def crash(self) -> None:
        os.kill(self.pid, signal.SIGSEGV)

    def hang(self) -> None:
        """A load that does not end is aborted, and leaves its stacks."""
        self.faults.set("ready", "hang", 1)
        os.kill(self.pid, signal.SIGKILL)

    def evil(self) -> None:
        """An emergency: it may be killed before it has answered."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.server.get("/grow?mb=320")

    def serve(self) -> None:
        """So many requests that every worker is due by max-requests."""
        self.server.statuses(300)

    def sicken(self) -> None:
        """Have one worker fail where its peers do not."""
        self.server.get("/sicken")
        gone = self.replaced
        while self.replaced == gone:
            self.server.statuses(10)

    def scale(self) -> None:
        self.control("scale", target=4)
        self.server.wait_ready(4)
        self.control("scale", target=3)

    def turn(self, cause: Callable[[], None]) -> None:
        """Replace by one cause, and wait until the fleet is whole and at rest again."""
        self.turns += 1
        gone = self.replaced
        cause()
        self.server.wait(
            f"{cause.__name__}, turn {self.turns}",
            lambda status: (
                self.replaced > gone
                and status["ready"] == status["target"] == len(status["slots"]) == 3
                and all(slot["state"] == "ready" and not slot["successor"] for slot in status["slots"])
                and all(slot["generation"] == status["arbiter"]["generation"] for slot in status["slots"])
            ),
        )
        self.server.wait(
            "only four children, each with its seat", lambda _: _size(Footprint.of(self.server)) == (4, 4)
        )

    @property
    def replaced(self) -> int:
        """How many workers are gone, of whatever slot."""
        with self.server.board() as board:
            words, layout = board.words, board.layout
            return sum(words[layout.slot(number) + Slot.EXITS] for number in range(1, layout.slots + 1))


def soak(
    server: Server, faults: Faults, replacements: int, *, tell: Callable[[str], object]
) -> tuple[Footprint, Footprint]:
    """Replace so many workers and return what the arbiter held after the first tenth, and at the end."""
    server.wait_ready()
    running = Soak(server, faults)
    early: Footprint | None = None
    for cause in running.causes():
        running.turn(cause)
        replaced = running.replaced
        if early is None and replaced >= max(replacements // 10, 10):
            early = Footprint.of(server)
        if running.turns % 20 == 0:
            tell(f"{replaced} of {replacements} replaced: {Footprint.of(server)}")
        if replaced >= replacements and early is not None:
            return early, Footprint.of(server)
    raise AssertionError("cycle() never ends")


def leaks(early: Footprint, late: Footprint) -> list[str]:
    """Say what has grown."""
    found = [
        f"{name}: {getattr(early, name)} to {getattr(late, name)}"
        for name in ("descriptors", "threads", "children", "seats")
        if getattr(late, name) != getattr(early, name)
    ]
    if late.memory - early.memory > GROWTH:
        found.append(f"memory: {early.memory >> 10} to {late.memory >> 10} KB")
    return found


def main(replacements: int) -> int:
    directory = Path(tempfile.mkdtemp(prefix="workerguard-soak-"))
    faults = Faults(directory / "faults")
    environ = {"DJANGO_SETTINGS_MODULE": "guinea_settings", "GUINEA_FAULTS": str(faults.directory)}
    server = Server(PROJECT, directory / "run", OPTIONS, environ=environ).start()
    try:
        early, late = soak(server, faults, replacements, tell=lambda text: print(text, flush=True))
    finally:
        server.end()
        shutil.rmtree(directory, ignore_errors=True)
    found = leaks(early, late)
    print(f"after a tenth: {early}\nat the end:    {late}\n{'; '.join(found) or 'nothing has grown'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
