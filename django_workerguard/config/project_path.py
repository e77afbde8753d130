"""The project's directory by the name that it was started with. Runs in the starting command and in readers.

A deployment may point a link, ``current``, at the next release and reload. The kernel knows a working directory
without its links, so the name has to be kept from where it was written: ``$PWD``, the path of manage.py, or
the link itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

NAMES = frozenset({"current", "live", "latest"})  # of a link to the release that is served
RELEASES = frozenset({"releases", "versions", "deployments"})  # of a directory of releases


def here() -> str:
    """Return the working directory of this process by its name with links, if that is known."""
    return working_directory(os.environ)


def working_directory(environ: Mapping[str, str]) -> str:
    """Return the working directory by its name with links, if that is known."""
    here = os.getcwd()
    named = environ.get("PWD", "")
    if os.path.isabs(named) and _same(named, here) and _same(os.path.normpath(named), here):
        by_name = os.path.normpath(named)
        if by_name != here:
            return by_name
    return _link_to(here) or here


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _link_to(directory: str) -> str | None:
    """Return the link, beside a release or beside the directory of all releases, that points to this release.

    A service manager sets the working directory through the link and leaves no name of it. A link of any name counts
    if the release is in a directory of releases; else any link may be there for another reason.
    """
    found = [link for link in _links_near(directory) if _same(link, directory)]
    named_so = [link for link in found if os.path.basename(link) in NAMES]
    if not named_so and os.path.basename(os.path.dirname(directory)) in RELEASES:
        named_so = found
    return named_so[0] if len(named_so) == 1 else None


def _links_near(directory: str) -> Iterable[str]:
    beside = os.path.dirname(directory)
    for parent in (beside, os.path.dirname(beside)):
        if parent == "/":
            return
        try:
            yield from (entry.path for entry in os.scandir(parent) if entry.is_symlink())
        except OSError:
            continue


def through_link(paths: Iterable[str], directory: str) -> list[str]:
    """Return absolute paths, those below a directory spelled with its own name instead of where its links lead."""
    real = os.path.realpath(directory)
    absolute = (os.path.normpath(os.path.join(directory, path)) for path in paths)
    return [directory + path[len(real) :] if _is_below(path, real) else path for path in absolute]


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
