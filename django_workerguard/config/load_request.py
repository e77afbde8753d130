"""What a worker is asked to load, and how it reports the steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """What is to be loaded and verified. ``app`` is ``module:callable``; None means the project's own."""

    app: str | None = None
    interface: Literal["wsgi", "asgi"] = "wsgi"
    warmup: tuple[str, ...] = ()
    warmup_path: tuple[str, ...] = ()
    load_probe: tuple[str, ...] = ()
    release: str = ""
    urlconf: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A part that the sentinel could not load and that the site may never use: the reason, cleansed."""

    part: str
    type: str
    message: str


@dataclass(frozen=True)
class Step:
    """One step of a load, as it went.

    ``left`` names the threads and sockets that the step left open and that are not known to be harmless, as
    ``thread:NAME``, ``socket:ADDRESS`` or ``listener:ADDRESS``.
    """

    name: str
    seconds: float
    peak_bytes: int
    retained_bytes: int
    threads_left: int
    sockets_left: int
    shareable: bool
    left: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def unaccepted(step: Step, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a step left that no pattern accepts. A pattern matches ``STEP`` or ``STEP:WHAT:NAME``."""
    return tuple(
        left
        for left in step.left
        if not any(fnmatchcase(name, one) for one in patterns for name in (step.name, f"{step.name}:{left}"))
    )


class Reporter(Protocol):
    """Is told of every step, so that a hang shows where."""

    def begin(self, name: str) -> None: ...

    def end(self, step: Step) -> None: ...
