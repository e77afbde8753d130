"""Close the connections that a load opens, to databases and caches. Runs in the worker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def connections_closed(*, forget: bool) -> Iterator[None]:
    """Close what is opened inside this, on every alias, also if the load fails: none must cross into a later fork.

    A connection that was open before stays open: under another server, or in a test, a request may be using it.
    ``forget``: drop the connection objects that were made inside this, too. Django goes through all that it knows
    at the start and the end of every request, and the project may use none of these.
    """
    before = {id(known): _is_open(known) for _, _, known in _known()}
    try:
        yield
    finally:
        for handler, alias, known in _known():
            if before.get(id(known)):
                continue
            with contextlib.suppress(Exception):  # a connection that cannot be closed is no reason to fail
                known.close()
            if forget and id(known) not in before:
                del handler[alias]


def _known() -> list[tuple[Any, str, Any]]:
    """Return Django's connections to databases and caches: handler, alias, connection.

    None before Django has its settings: the application's own module may still have to prepare the environment
    that they read.
    """
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return []
    with contextlib.suppress(Exception):  # settings that Django refuses: no connection can have been opened
        from django.core.cache import caches
        from django.db import connections

        handlers: tuple[Any, ...] = (connections, caches)
        known = [
            (handler, alias, getattr(handler._connections, alias, None))
            for handler in handlers
            for alias in handler
        ]
        return [entry for entry in known if entry[2] is not None]
    return []


def _is_open(known: Any) -> bool:
    """Say whether a database connection is open; a cache, which does not tell, passes for it."""
    return getattr(known, "connection", known) is not None
