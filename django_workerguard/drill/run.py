"""The drill from begin to end. Runs in a process of its own, without Django."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from django_workerguard.drill import cgroup
from django_workerguard.drill.advice import advise
from django_workerguard.drill.overrides import overrides
from django_workerguard.drill.preparation import (
    CannotRunError,
    read_configuration,
    read_site,
    try_load,
)
from django_workerguard.drill.result import Report
from django_workerguard.drill.scene import Scene, Wish
from django_workerguard.drill.servers import Guarded, Plain
from django_workerguard.drill.site import refuse_harm

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a private directory in memory, for the scoreboard
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedDrillError(KeyboardInterrupt):
    """A signal has asked the drill to end."""


def drill(wish: Wish, say: Callable[[str], None]) -> Report:
    """Run the drill and return its report. Everything that it has started and made is gone afterwards.

    Raises WorkerguardError if it cannot run, InterruptedDrillError if a signal ends it.
    """
    with _ended_by_signals(), contextlib.ExitStack() as stack:
        begun = time.monotonic()
        directory = _private_directory(stack)
        scene = _prepare(wish, directory, stack, say)
        guarded = scene.play_all(Guarded, say)
        runs = [guarded.run]
        if wish.against:
            try:
                runs.append(scene.play_all(Plain, say).run)
            except CannotRunError as error:  # the verdicts do not need it
                scene.notes.append(f"there is no comparison: {error}")
        return Report(
            settings=scene.site.module,
            paths=scene.paths,
            seconds=time.monotonic() - begun,
            runs=tuple(runs),
            changes=tuple(map(str, scene.made.changes)),
            notes=tuple(scene.notes),
            advice=tuple(advise(scene.configuration, scene.facts(guarded))),
        )


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have a signal end the drill in good order; a second one does not disturb that."""

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise InterruptedDrillError

    heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals wait until what is made here is sure to be removed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _private_directory(stack: contextlib.ExitStack) -> Path:
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else None
    with _uninterrupted():
        directory = Path(tempfile.mkdtemp(prefix=f"workerguard-drill-{os.getpid()}-", dir=parent))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o711)  # workers of another user have to pass through, and cannot list it
    (directory / "run").mkdir(mode=0o711)
    (directory / "faults").mkdir()
    (directory / "faults").chmod(0o777)
    return directory


def _prepare(wish: Wish, directory: Path, stack: contextlib.ExitStack, say: Callable[[str], None]) -> Scene:
    start = wish.start
    say("reading the settings")
    site = read_site(start, directory)
    refuse_harm(site, read_only=wish.read_only)
    say("reading the configuration")
    configuration = read_configuration(start, site)
    say("loading the site once")
    load = try_load(start, site)
    sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sink.bind(("127.0.0.1", 0))  # packets for statsd get lost in it
    made = overrides(
        configuration, directory, statsd=f"127.0.0.1:{sink.getsockname()[1]}", load_seconds=load.seconds
    )
    scene = Scene(wish, directory, site, configuration, load, made)
    if "memory" in wish.acts:
        try:
            with _uninterrupted():
                scene.group = cgroup.make()
                stack.callback(scene.group.remove)
        except cgroup.NoCgroupError as error:
            scene.no_group = str(error)
    return scene
