"""The arbiter as the objects around it see it: gunicorn's, which ships no types, and what the guard adds. Runs in the arbiter."""

from __future__ import annotations

from types import FrameType
from typing import Any, Protocol

from django_workerguard.scoreboard.board import Board
from django_workerguard.server.configuration.guarded_application import GuardedApplication


class Host(Protocol):
    """gunicorn's arbiter, guarded."""

    app: GuardedApplication
    board: Board
    cfg: Any  # gunicorn's configuration
    log: Any  # gunicorn's logger, or the project's own
    pid: int
    proc_name: str
    worker_age: int
    worker_class: type[Any]
    timeout: int
    num_workers: int
    LISTENERS: list[Any]
    WORKERS: dict[int, Any]  # gunicorn's worker objects by pid
    START_CTX: dict[Any, Any]
    dirty_arbiter_pid: int
    systemd: bool  # whether the listeners are systemd's

    def setup(self, app: GuardedApplication) -> None:
        """Take a configuration. Raises what gunicorn and the configuration raise."""

    def follow_options(self) -> None:
        """Decide by the options of the configuration from now on."""

    def init_signals(self) -> None:
        """Take the signals."""

    def signal(self, number: int, frame: FrameType | None) -> None:
        """Take one signal."""

    def introduce(self) -> None:
        """Write onto the board which server this is."""

    def take_logger(self, cfg: Any) -> None:
        """Make the logger again if the configuration names another class."""

    def hook(self, name: str, *arguments: Any) -> None:
        """Run one of the user's hooks; an exception in it is logged."""

    def reexec(self) -> None:
        """Start a second arbiter."""

    def reap_dirty_arbiter(self) -> None:
        """Collect gunicorn's dirty arbiter."""

    def kill_dirty_arbiter(self, number: int) -> None:
        """Send a signal to gunicorn's dirty arbiter."""
