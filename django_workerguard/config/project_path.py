"""The project's directory, by the path with which it was started. Runs in the starting command and in readers.

A deployment may point a link such as ``current`` to the next release, and reload. The kernel knows a working
directory only without its links, so the path with links comes from ``$PWD``, from the path of manage.py or from the
link itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

NAMES = frozenset({"current", "live", "latest"})  # of a link to the present release
RELEASES = frozenset({"releases", "versions", "deployments"})  # names of a directory of releases


def here() -> str:
    """Return the working directory of this process, by its path with links if that is known."""
    return working_directory(os.environ)


def working_directory(environ: Mapping[str, str]) -> str:
    """Return the working directory, by its path with links if that is known."""
    here = os.getcwd()
    pwd = environ.get("PWD", "")
    if os.path.isabs(pwd) and _same(pwd, here) and _same(os.path.normpath(pwd), here):
        with_links = os.path.normpath(pwd)
        if with_links != here:
            return with_links
    return _link_to(here) or here


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _link_to(directory: str) -> str | None:
    """Return the link to this release that is beside the release or beside the directory of releases.

    A service manager that sets the working directory through the link does not pass on the link's path. If the release
    is in a directory of releases, a link of any name is used; elsewhere such a link may have another purpose.
    """
    links = [link for link in _links_near(directory) if _same(link, directory)]
    chosen = [link for link in links if os.path.basename(link) in NAMES]
    if not chosen and os.path.basename(os.path.dirname(directory)) in RELEASES:
        chosen = links
    return chosen[0] if len(chosen) == 1 else None


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
    """Return absolute paths. Paths below ``directory`` keep its own path, without resolving its links."""
    real = os.path.realpath(directory)
    absolute = (os.path.normpath(os.path.join(directory, path)) for path in paths)
    return [directory + path[len(real) :] if _is_below(path, real) else path for path in absolute]


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
