"""Standard input, output and error of a process that may have been started without them. Runs anywhere."""

from __future__ import annotations

import os
import sys

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by descriptor


def open_missing() -> None:
    """Open /dev/null in the place of each standard stream that is closed, for the programs that are started from here too.

    Otherwise the next file or socket that is opened gets its number, and what is printed is written there.
    """
    for fd, (name, mode) in enumerate(STREAMS):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets this number: all lower ones are open
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:  # not from the number: a file of the site's may have it already
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open


def flush() -> None:
    """Write out what has been printed. A stream that is missing, closed or full is no reason to fail."""
    import contextlib  # imported late: a probe does without it

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it may be an object of the site's
            stream.flush()
