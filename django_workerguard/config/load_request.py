"""Request of a load, and the report of its steps. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, Protocol

from django_workerguard.values import value_class


@value_class(kw_only=True)
class LoadRequest:
    """What to load and verify. ``app`` is ``module:callable``; None means the project's own."""

    app: str | None = None
    interface: Literal["wsgi", "asgi"] = "wsgi"
    warmup: tuple[str, ...] = ()
    warmup_path: tuple[str, ...] = ()
    warmup_in_mold: bool = False
    load_probe: tuple[str, ...] = ()
    release: str = ""
    urlconf: tuple[str, ...] = ()


@value_class
class Skipped:
    """A part that the sentinel could not load and that the site may never use, with the redacted reason."""

    part: str
    type: str
    message: str


@value_class
class Step:
    """The result of one step of a load.

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
    """Return the threads and sockets of ``step.left`` that no pattern accepts.

    A pattern matches ``STEP``, ``STEP:thread:NAME``, ``STEP:socket:ADDRESS`` or ``STEP:listener:ADDRESS``.
    """
    return tuple(
        left
        for left in step.left
        if not any(fnmatchcase(name, one) for one in patterns for name in (step.name, f"{step.name}:{left}"))
    )


class Reporter(Protocol):
    """Receives the start and the end of every step, so that a hang can be located."""

    def begin(self, name: str) -> None: ...

    def end(self, step: Step) -> None: ...
