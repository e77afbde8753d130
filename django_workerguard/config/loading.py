"""What a worker is asked to load, and how it reports the steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Step:
    """One step of a load, as it went."""

    name: str
    seconds: float
    peak_bytes: int
    retained_bytes: int
    threads_left: int
    sockets_left: int
    shareable: bool


class Reporter(Protocol):
    """Is told of every step, so that a hang shows where."""

    def begin(self, name: str) -> None: ...

    def end(self, step: Step) -> None: ...
