"""Libraries that need to be stopped before a fork and started after it, or that no worker survives. Runs in the mold.

A library is here only if its documentation has both halves of the pair and the pair was tested: data of forked workers
arrived. It is pinned to the tested versions; with another version the library is a hazard.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from django_workerguard.sentinel.concurrency import objects_of
from django_workerguard.sentinel.hazard import Hazard, HazardKind
from django_workerguard.values import value_class
from django_workerguard.worker.pairs import Pair

logger = logging.getLogger("django_workerguard")


@value_class
class KnownLibrary:
    """A library that documents how to stop and restart its client around a fork."""

    distribution: str
    tested: tuple[str, ...]  # versions, or the beginnings of versions that end with a dot
    module: str
    threads_of: tuple[str, ...]  # top-level modules whose threads show that the client runs
    client: Callable[[Any], type]  # from the module
    stop: Callable[[Any], object]
    start: Callable[[Any], object]

    def version(self) -> str:
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "unknown"

    @property
    def is_tested(self) -> bool:
        return f"{self.version()}.".startswith(self.tested)

    def is_running(self) -> bool:
        """Return whether the library is imported and has a thread. A site's own pair may have stopped it."""
        return self.module in sys.modules and any(
            _module_of(thread).partition(".")[0] in self.threads_of for thread in threading.enumerate()
        )

    def pairs(self) -> Iterator[Pair]:
        """Yield a pair for each client."""
        for client in objects_of(self.client(sys.modules[self.module])):
            yield Pair(lambda c=client: self.stop(c), lambda c=client: self.start(c), self.distribution)  # type: ignore[misc]


KNOWN_LIBRARIES = (
    KnownLibrary(
        distribution="launchdarkly-server-sdk",
        tested=("9.20.",),
        module="ldclient.client",
        threads_of=("ldclient", "ld_eventsource"),
        client=lambda module: module.LDClient,
        stop=lambda client: client.close(),
        start=lambda client: client.postfork(),
    ),
)


def _module_of(thread: threading.Thread) -> str:
    target: Any = getattr(thread, "_target", None)
    return getattr(target, "__module__", None) or type(thread).__module__


def pairs_of_known_libraries() -> Iterator[Pair]:
    """Yield the pairs of all libraries that run here in a tested version."""
    for library in KNOWN_LIBRARIES:
        if library.is_running() and library.is_tested:
            yield from library.pairs()


def unfit_libraries() -> Iterator[Hazard]:
    """Yield a hazard for each library that runs here in an untested version, or whose data would never arrive."""
    for library in KNOWN_LIBRARIES:
        if library.is_running() and not library.is_tested:
            tested = ", ".join(f"{beginning}*" for beginning in library.tested)
            yield Hazard(
                HazardKind.UNFIT_LIBRARY,
                f"{library.distribution} {library.version()} is running; only {tested} is known to survive a fork. "
                "Register a pair with mold.pause that stops and starts it",
            )
    if _new_relic_has_an_application():
        yield Hazard(
            HazardKind.UNFIT_LIBRARY,
            "newrelic has an active application; nothing that forked workers record would arrive. "
            "Do not call register_application() during the load",
        )


def _new_relic_has_an_application() -> bool:
    agent = getattr(sys.modules.get("newrelic.core.agent"), "Agent", None)
    return bool(getattr(getattr(agent, "_instance", None), "_applications", None))
