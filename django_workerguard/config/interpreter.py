"""Commands that start Python with the options of this interpreter. Runs in the arbiter and the commands.

The options are the site's: ``-O`` removes its assertions, ``-X utf8`` is the encoding of its files.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# the package is found by its path: -E and -I have PYTHONPATH ignored, and another copy may be installed
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import django_workerguard; del sys.path[0]; "
    "from {module} import main; sys.exit(main(sys.argv[1:]))"
)


def options() -> list[str]:
    """Return the options with which this interpreter was started."""
    found: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if getattr(sys.__stdout__, "write_through", False):
        found.append("-u")
    known = set(found)
    for name, value in sys._xoptions.items():
        option = name if value is True else f"{name}={value}"
        if option not in known:
            found += ["-X", option]
    return found


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that calls ``main`` of a module of this package with the arguments, in the site's own way."""
    package = str(Path(__file__).parents[2])
    return [sys.executable, *options(), "-P", "-c", PROGRAM.format(module=module), package, *arguments]
