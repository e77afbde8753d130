"""Learn which view serves a request, once Django has chosen it. Runs in the worker.

Django sends no signal for it, and a middleware would cost every request more. So `BaseHandler.resolve_request` is wrapped,
which all handlers call. Where a version of Django does not have it, the views stay unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def name_views(note: Callable[[str], None]) -> None:
    """Call ``note`` with the dotted name of the view for each request that Django resolves."""
    from django.core.handlers.base import BaseHandler

    resolve = getattr(BaseHandler, "resolve_request", None)
    if resolve is None:
        return

    @functools.wraps(resolve)
    def resolve_request(self: Any, request: Any) -> Any:
        match = resolve(self, request)
        note(getattr(match, "_func_path", ""))
        return match

    BaseHandler.resolve_request = resolve_request  # type: ignore[method-assign]
