"""Load the whole URLconf and the template engines. Runs in the worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def load_urlconf(more: Sequence[str] = ()) -> None:
    """Import every included URLconf and the error handlers, and build the tables that reverse() uses.

    ``more``: URLconfs besides ROOT_URLCONF, which the project chooses per request. Raises any exception of the
    project's modules.
    """
    from django.conf import settings

    for urlconf in (getattr(settings, "ROOT_URLCONF", None), *more):
        if urlconf:
            _load(urlconf)


def _load(urlconf: str) -> None:
    from django.urls import get_resolver

    resolver = get_resolver(urlconf)
    _walk(resolver, seen=set())
    resolver.reverse_dict  # noqa: B018 - builds the namespaces and the reverse map of this language
    for status in (400, 403, 404, 500):
        resolver.resolve_error_handler(status)


def _walk(resolver: Any, *, seen: set[int]) -> None:
    if id(resolver) in seen:
        return
    seen.add(id(resolver))
    for pattern in resolver.url_patterns:
        if hasattr(pattern, "url_patterns"):
            _walk(pattern, seen=seen)
        getattr(pattern.pattern, "regex", None)  # compiles it; Django caches it for ever


def load_templates() -> None:
    """Build every template engine with its tag libraries, loaders and context processors."""
    from django.template import engines

    for engine in engines.all():
        inner = getattr(engine, "engine", None)
        for part in (
            "template_libraries",
            "template_builtins",
            "template_loaders",
            "template_context_processors",
        ):
            getattr(inner, part, None)
