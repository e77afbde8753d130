"""Which Celery and which billiard the guard leans on. Their pools' hooks are internals: others are refused."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

from django_workerguard.errors import ExitCode

SUPPORTED = {"celery": (("5", "5"), ("5", "6"), ("5", "7")), "billiard": (("4", "3"),)}


def unsupported() -> str:
    """Say what is installed that is not supported, and what is; "" where all is well."""
    wrong = []
    for package, releases in SUPPORTED.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "none"
        if tuple(found.split(".")[:2]) not in releases:
            wrong.append(f"{package} {found} (supported: {', '.join('.'.join(r) + '.*' for r in releases)})")
    return ", ".join(wrong)


def require_supported() -> None:
    """End the worker with one line where the guard would lean on internals that it does not know."""
    wrong = unsupported()
    if wrong:
        sys.stderr.write(
            f"Error: the guard of Celery's pool cannot be used with {wrong}. "
            "Install a supported version, or remove guard(app) or CELERY_WORKER_POOL to run unguarded.\n"
        )
        raise SystemExit(ExitCode.USAGE)
