"""The load, step by step. Runs in the worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from inspect import iscoroutinefunction, signature
from pathlib import Path
from typing import Any

from django_workerguard.config.load_request import LoadRequest, Reporter
from django_workerguard.sentinel.connections import close_new_connections
from django_workerguard.sentinel.lazy_imports import load_languages, load_lazy_parts
from django_workerguard.sentinel.measurement import measure_step
from django_workerguard.sentinel.optional_parts import OptionalParts
from django_workerguard.sentinel.urlconf import load_templates, load_urlconf
from django_workerguard.sentinel.warmup import warm_up

STEPS: dict[str, Callable[[LoadRequest, OptionalParts], None]] = {
    "urlconf": lambda request, _: load_urlconf(request.urlconf),
    "templates": lambda *_: load_templates(),
    "lazy": lambda _, parts: load_lazy_parts(parts),
    "languages": lambda _, parts: load_languages(parts),
}


class WrongApplicationError(Exception):
    """The application does not exist, or the worker class cannot serve its interface (WSGI or ASGI)."""


class ProbeError(Exception):
    """A load probe returned False."""


def load(request: LoadRequest, reporter: Reporter) -> Callable[..., Any]:
    """Load and verify the application, and return it. Raises any exception of the load."""
    app = load_shared(request, reporter, in_mold=False)
    load_own(app, request, reporter, forked=False)
    return app


def load_steps(request: LoadRequest, reporter: Reporter) -> None:
    """Run every step that follows the import of the application, but for the warm-up requests."""
    load_parts(request, reporter)
    load_own(None, request, reporter, forked=False)


def load_shared(request: LoadRequest, reporter: Reporter, *, in_mold: bool) -> Callable[..., Any]:
    """Load the application and what a fork can share of it, and return it. Raises any exception of the load.

    ``in_mold``: workers will be forked from this process, so make the warm-up requests here if they are to be shared. The project's own module is imported first, because it may set environment variables that Django reads.
    """
    with close_new_connections(forget=False):
        with measure_step("app", reporter):
            app = _application(request)
        load_parts(request, reporter)
    if in_mold and request.warmup_in_mold:
        _warm_up_all(app, request, reporter)
    return app


def load_parts(request: LoadRequest, reporter: Reporter) -> None:
    """Load the parts besides the application that Django would import on first use."""
    with close_new_connections(forget=True):
        for name in request.warmup:
            with measure_step(name, reporter) as parts:
                STEPS[name](request, parts)


def load_own(
    app: Callable[..., Any] | None, request: LoadRequest, reporter: Reporter, *, forked: bool
) -> None:
    """Do what each worker does for itself: the warm-up requests to ``app``, if there is one, and the load probes.

    ``forked``: from a mold, which has made the warm-up requests if they are to be shared.
    """
    if app is not None and not (forked and request.warmup_in_mold):
        _warm_up_all(app, request, reporter)
    with close_new_connections(forget=True):
        for probe in request.load_probe:
            with measure_step(f"probe:{probe}", reporter, shareable=False):
                _run_probe(probe)


def _warm_up_all(app: Callable[..., Any], request: LoadRequest, reporter: Reporter) -> None:
    with close_new_connections(forget=True):
        for path in request.warmup_path:
            with measure_step(f"warmup:{path}", reporter, shareable=False):
                warm_up(app, path, interface=request.interface)


def _application(request: LoadRequest) -> Callable[..., Any]:
    name = request.app or _from_settings(request.interface)
    app = _import_named(name) if name else _django_default(request.interface)
    if not callable(app):
        raise WrongApplicationError(f"{name} is not callable")
    _check_interface(app, name or "Django's own application", request.interface)
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup(set_prefix=False)
    return app


def _from_settings(interface: str) -> str | None:
    """Return ``module:callable`` from the settings; None if the project names no application."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return None
    from django.conf import settings

    dotted = getattr(settings, "ASGI_APPLICATION" if interface == "asgi" else "WSGI_APPLICATION", None)
    if not dotted:
        return None
    module, _, attribute = str(dotted).rpartition(".")
    return f"{module}:{attribute}"


def _import_named(name: str) -> Any:
    """Import ``module:attribute``; as in gunicorn, the attribute defaults to `application`, and ``()`` calls a factory."""
    module_name, _, path = name.partition(":")
    target: Any = import_module(module_name)
    path, calls, arguments = (path or "application").partition("(")
    if arguments not in ("", ")"):
        raise WrongApplicationError(f"{name}: a factory cannot have arguments; write {path}()")
    for attribute in path.split("."):
        try:
            target = getattr(target, attribute)
        except AttributeError:
            raise WrongApplicationError(f"{module_name} has no {path!r}") from None
    return target() if calls else target


def _django_default(interface: str) -> Callable[..., Any]:
    if interface == "asgi":
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def _check_interface(app: Callable[..., Any], name: str, interface: str) -> None:
    is_asgi = iscoroutinefunction(app) or iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
    if is_asgi and interface == "wsgi":
        raise WrongApplicationError(
            f"{name} is an ASGI application, but this worker class serves WSGI; choose the worker class asgi"
        )
    if interface == "asgi" and not is_asgi and _parameter_count(app) == 2:
        raise WrongApplicationError(
            f"{name} is a WSGI application, but this worker class serves ASGI; choose sync, gthread or gevent"
        )


def _parameter_count(app: Callable[..., Any]) -> int | None:
    try:
        return len(signature(app).parameters)
    except (TypeError, ValueError):
        return None


def _run_probe(name: str) -> None:
    dotted = name if ":" in name else ":".join(name.rsplit(".", 1))
    if _import_named(dotted)() is False:
        raise ProbeError(f"the load probe {name} returned False")


def release(spec: str) -> str:
    """Return the release that this process runs, from ``env:NAME``, ``file:PATH`` or ``call:module:function``.

    Never raises: if the release cannot be read, it is "".
    """
    kind, _, source = spec.partition(":")
    try:
        match kind:
            case "env":
                return os.environ.get(source, "")
            case "file":
                return Path(source).read_text().strip().partition("\n")[0]
            case "call":
                return str(_import_named(source)())
    except BaseException:
        return ""
    return ""
