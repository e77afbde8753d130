"""Start another program, which gets the descriptors that it is given and no others. Runs in the arbiter.

Not by `subprocess`, which would wait for its child: the arbiter collects every child itself. gunicorn
makes its listeners inheritable, for SIGUSR2, and so is the handover: a program that had them
would keep the port from the next server, and could read what the configuration holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from django_workerguard.arbiter.oom_score import give_back_for

STANDARD = 2  # the highest descriptor of standard input, output and error


def execute(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    descriptors: Mapping[int, int],
    group: bool = False,
) -> int:
    """Start a program, descriptors in the path, and return its pid. Raises OSError.

    ``descriptors``: by number in the program, which descriptor of ours it gets there. ``group``: in a
    process group of its own.
    """
    pid = os.posix_spawnp(
        arguments[0],
        list(arguments),
        dict(environ),
        file_actions=[
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
            *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in descriptors.items()),
        ],
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD],
        **({"setpgroup": 0} if group else {}),  # type: ignore[arg-type] # None is not taken for it
    )
    give_back_for(pid)
    return pid


def _inheritable() -> list[int]:
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the directory's own descriptor
            if int(name) > STANDARD and os.get_inheritable(int(name)):
                descriptors.append(int(name))
    return descriptors
