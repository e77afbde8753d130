"""What the guard uses of gunicorn, and whether the installed gunicorn still has it. Runs in the arbiter, at its start."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module

from gunicorn import __version__, version_info

from django_workerguard.errors import ConfigurationError

OLDEST = (26, 1)
# before these versions, a worker of the class that leaves closes connections that are kept alive, without saying so in the
# answer before: a request that is on its way is lost
LOSES_NOTHING = {"ASGIWorker": (27, 0, 0), "ThreadWorker": (27, 0, 1)}
TESTED = 27  # the newest major version that the whole suite has passed on

# the methods that the guard overrides or calls, by class
SIGNATURES: Mapping[str, Mapping[str, str]] = {
    "gunicorn.arbiter:Arbiter": {
        "__init__": "(self, app)",
        "setup": "(self, app)",
        "start": "(self)",
        "run": "(self)",
        "stop": "(self, graceful=True)",
        "reap_workers": "(self)",
        "halt": "(self, reason=None, exit_status=0)",
        "reexec": "(self)",
        "wait_for_signals": "(self, timeout=1.0)",
        "wakeup": "(self)",
        "maybe_promote_master": "(self)",
        "manage_dirty_arbiter": "(self)",
        "reap_dirty_arbiter": "(self)",
        "handle_dirty_arbiter_exit": "(self, wpid, status)",
    },
    "gunicorn.workers.base:Worker": {
        "__init__": "(self, age, ppid, sockets, app, timeout, cfg, log)",
        "init_process": "(self)",
        "load_wsgi": "(self)",
        "notify": "(self)",
        "run": "(self)",
        "handle_abort": "(self, sig, frame)",
    },
    "gunicorn.sock:TCPSocket": {"get_backlog": "(self)"},
    "gunicorn.sock:UnixSocket": {"get_backlog": "(self)"},
    "gunicorn.glogging:Logger": {"setup": "(self, cfg)"},
}
# the same for single worker classes, which the arbiter does not import for the sake of this
SIGNATURES_OF_WORKERS: Mapping[str, Mapping[str, str]] = {
    "gunicorn.workers.gthread:ThreadWorker": {
        "set_accept_enabled": "(self, enabled)",
        "get_thread_pool": "(self)",
        "handle_winch": "(self, sig, fname)",
    },
    "gunicorn.workers.gasgi:ASGIWorker": {
        "handle_abort_signal": "(self)",
        "load_wsgi": "(self)",
        "run": "(self)",
        "_shutdown": "(self)",
    },
}


def require_version() -> None:
    """Raise ConfigurationError if the installed gunicorn is older than the guard needs."""
    if version_info[:2] < OLDEST:
        raise ConfigurationError(
            f"it needs gunicorn {OLDEST[0]}.{OLDEST[1]} or newer, and gunicorn {__version__} is installed",
            option="django-workerguard",
            hint=f"Install gunicorn {TESTED}.",
        )


def require_contract(worker_class: type) -> list[str]:
    """Return warnings about a gunicorn that is newer than the tested ones, or whose worker class loses requests.

    Raises ConfigurationError if something that the guard uses has changed there.
    """
    if version_info[0] <= TESTED:
        return _losses(worker_class)
    broken = next(differences(worker_class), None)
    if broken:
        raise ConfigurationError(
            f"it cannot be used with gunicorn {__version__}: {broken}",
            option="django-workerguard",
            hint=f"Install gunicorn {TESTED}, or a newer django-workerguard.",
        )
    warning = (
        f"gunicorn {__version__} is newer than the versions that this django-workerguard was tested with "
        f"(up to {TESTED}); the functions that it uses there are unchanged, so the server starts"
    )
    return [warning]


def _losses(worker_class: type) -> list[str]:
    names = {cls.__name__ for cls in worker_class.__mro__}
    since = next((version for name, version in LOSES_NOTHING.items() if name in names), version_info)
    if version_info >= since:
        return []
    warning = (
        f"gunicorn {__version__} closes kept-alive connections of a {worker_class.__name__} that leaves, and a request "
        f"that is on its way may be lost: install gunicorn {'.'.join(map(str, since))} or newer"
    )
    return [warning]


def differences(worker_class: type) -> Iterator[str]:
    """Yield each method that differs from the one that the guard uses, of gunicorn itself and of a worker class."""
    used = {f"{cls.__module__}:{cls.__qualname__}" for cls in worker_class.__mro__}
    of_worker = {name: methods for name, methods in SIGNATURES_OF_WORKERS.items() if name in used}
    for place, methods in {**SIGNATURES, **of_worker}.items():
        module, _, name = place.partition(":")
        try:
            cls = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            yield f"{module} has no {name}"
            continue
        for method, expected in methods.items():
            signature = _signature(getattr(cls, method, None))
            if signature != expected:
                yield (
                    f"{name}.{method} takes {signature}, not {expected}"
                    if signature
                    else f"{name} has no {method}"
                )


def _signature(method: object) -> str:
    """Write the signature of a method without annotations; "" if there is no such method."""
    if not callable(method):
        return ""
    parameters = [one.replace(annotation=one.empty) for one in inspect.signature(method).parameters.values()]
    return str(inspect.Signature(parameters))
