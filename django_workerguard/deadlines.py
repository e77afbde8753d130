"""Limits of a view's own for how long a request may run. Runs where the site is imported, and in its requests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from django_workerguard.config import units
from django_workerguard.errors import ConfigurationError
from django_workerguard.worker.register import current_register, current_request

__all__ = ["extend_deadline", "request_timeout"]

View = TypeVar("View", bound=Callable[..., Any])


def request_timeout(seconds: float) -> Callable[[View], View]:
    """Give a view a limit of its own, in seconds from its call, in place of the option `request-timeout`; 0: no limit.

    For synchronous and asynchronous views; for a class use Django's `method_decorator`::

        from django_workerguard import request_timeout


        @request_timeout(300)
        def export(request): ...

    What happens after that time is what `request-timeout-action` says. Without `serve_guarded` it does nothing. Raises
    ConfigurationError for a value that is no number of seconds.
    """
    try:
        units.seconds(seconds)
    except ValueError as error:
        raise ConfigurationError(
            str(error),
            option="request_timeout",
            hint="Give it seconds, as in @request_timeout(30). 0 is no limit.",
        ) from None

    def decorate(view: View) -> View:
        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def limited_async(*arguments: Any, **more: Any) -> Any:
                extend_deadline(seconds)
                return await view(*arguments, **more)

            return limited_async  # type: ignore[return-value]

        @functools.wraps(view)
        def limited(*arguments: Any, **more: Any) -> Any:
            extend_deadline(seconds)
            return view(*arguments, **more)

        return limited  # type: ignore[return-value]

    return decorate


def extend_deadline(seconds: float) -> bool:
    """Set the limit of the current request to so many seconds from now; 0: no limit.

    Returns whether that was possible: False outside of a request, in a thread that has not the request's context, for a
    request that the register has no room for, and without `serve_guarded`.
    """
    register = current_register()
    return register is not None and register.limit(current_request.get(), seconds)
