"""Close the connections that a load opens, to databases and caches. Runs in the worker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def close_new_connections(*, forget: bool) -> Iterator[None]:
    """Close the connections that the block opens, on every alias, even if the load fails, so that no fork inherits one.

    A connection that was open before stays open: under another server, or in a test, a request may be using it.
    ``forget``: also drop the database connection objects that the block has made. Django visits all its connection
    objects at the start and the end of every request, even if the project never uses them. Those of caches are dropped in
    any case: Django's cache for Redis closes nothing in its close(), but its connections are closed with the object.
    """
    before = {id(connection): _is_open(connection) for _, _, connection in _connections()}
    try:
        yield
    finally:
        for handler, alias, connection in _connections():
            if before.get(id(connection)):
                continue
            with contextlib.suppress(
                Exception
            ):  # the load must not fail because a connection cannot be closed
                connection.close()
            if id(connection) not in before and (forget or handler.settings_name == "CACHES"):
                del handler[alias]


def _connections() -> list[tuple[Any, str, Any]]:
    """Return Django's connections to databases and caches: handler, alias, connection.

    Empty until Django's settings are configured. This function must not configure them: the application's own module
    may first have to set environment variables that they read.
    """
    configuration = sys.modules.get("django.conf")
    if configuration is None or not configuration.settings.configured:
        return []
    with contextlib.suppress(Exception):  # if Django rejects the settings, no connection is open
        from django.core.cache import caches
        from django.db import connections

        handlers: tuple[Any, ...] = (connections, caches)
        connections_by_alias = [
            (handler, alias, getattr(handler._connections, alias, None))
            for handler in handlers
            for alias in handler
        ]
        return [entry for entry in connections_by_alias if entry[2] is not None]
    return []


def _is_open(connection: Any) -> bool:
    """Return whether a database connection is open; a cache has no such state and counts as open."""
    return getattr(connection, "connection", connection) is not None
