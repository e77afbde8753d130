"""The supported versions of Celery and billiard. The guard uses internals of their pools, so other versions are refused."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from django_workerguard.config.output import say
from django_workerguard.errors import ExitCode

SUPPORTED = {"celery": (("5", "5"), ("5", "6"), ("5", "7")), "billiard": (("4", "3"),)}


def unsupported() -> str:
    """Return the unsupported versions that are installed, and the supported ones; "" if all are supported."""
    problems = []
    for package, releases in SUPPORTED.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "none"
        if tuple(installed.split(".")[:2]) not in releases:
            problems.append(
                f"{package} {installed} (supported: {', '.join('.'.join(r) + '.*' for r in releases)})"
            )
    return ", ".join(problems)


def require_supported() -> None:
    """End the worker with an error if Celery or billiard is not supported."""
    problems = unsupported()
    if problems:
        say(
            f"Error: the guard of Celery's pool cannot be used with {problems}. "
            "Install a supported version, or remove guard(app) or CELERY_WORKER_POOL to run unguarded."
        )
        raise SystemExit(ExitCode.USAGE)
