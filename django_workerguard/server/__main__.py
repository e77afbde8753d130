"""The process that becomes the arbiter: ``python -m django_workerguard.server --handover FD``.

Started by `serve_guarded` and by ``python -m django_workerguard serve``, and by itself on
SIGUSR2. It never imports Django.
"""

from __future__ import annotations

import sys

from django_workerguard.config.handover import read


def main() -> int:
    """Take over from the command that started this process, and serve. Return the exit code."""
    handover_fd = int(sys.argv[sys.argv.index("--handover") + 1])
    handover = read(handover_fd)
    sys.path[:] = handover.sys_path
    from django_workerguard.server.application import run

    return run(handover, handover_fd)


if __name__ == "__main__":
    sys.exit(main())
