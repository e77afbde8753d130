"""The process that becomes the arbiter: ``python django_workerguard/server/__main__.py --handover FD``.

Started by `serve_guarded` and by ``python -m django_workerguard serve``, and by itself on
SIGUSR2. It never imports Django.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Take over from the command that started this process, and serve. Return the exit code."""
    sys.path.insert(0, str(Path(__file__).parents[2]))  # for the package alone: another copy may be installed
    import django_workerguard  # noqa: F401 - its modules are found through it, before the handover's path is there

    del sys.path[0]
    from django_workerguard.config import standard_streams

    standard_streams.open_missing()  # a file of manage.py's may have had the number
    from django_workerguard.config.gunicorn_settings import import_settings
    from django_workerguard.config.handover import read
    from django_workerguard.errors import ExitCode
    from django_workerguard.worker.garbage import collected_rarely

    handover_fd = int(sys.argv[sys.argv.index("--handover") + 1])
    handover = read(handover_fd)
    sys.path[:] = handover.sys_path
    try:
        with collected_rarely():
            import_settings()
            from django_workerguard.server.main import run
    except ImportError as error:
        if not str(error.name).startswith("gunicorn"):
            raise
        from django_workerguard.config.output import say

        say(f"Error: django-workerguard: it cannot be used with the gunicorn that is installed: {error}.")
        return ExitCode.USAGE
    return run(handover, handover_fd)


if __name__ == "__main__":
    sys.exit(main())
