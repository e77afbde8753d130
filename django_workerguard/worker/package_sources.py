"""The sources of a package as they were when the server started. Made in the arbiter, used in its children.

A child imports what the arbiter must not hold: the sentinel, and modules that gunicorn and uvicorn import late. If the
package is upgraded on disk meanwhile, those modules would not fit the ones that the child has from the arbiter. So
the child imports each of them as it was at the start.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

# what a worker runs from the arbiter's time, and goes on importing
PACKAGES = ("django_workerguard", "gunicorn", "uvicorn", "uvicorn_worker")


@dataclass(frozen=True)
class Source:
    """A module's file: its content, and what Python compares to know whether compiled code fits it.

    Without content the module had been imported when its source would have been kept.
    """

    path: str
    compressed: bytes
    mtime: float
    size: int

    def has_changed(self) -> bool:
        """Say whether the file is another one now, or gone."""
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_mtime, status.st_size) != (self.mtime, self.size)


class KeptLoader(SourceFileLoader):
    """Loads a module from a kept source; compiled code on disk is used as long as it fits that source."""

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name, source.path)
        self._source = source

    def path_stats(self, path: Any) -> dict[str, float]:
        return {"mtime": self._source.mtime, "size": self._source.size}

    def get_data(self, path: Any) -> bytes:
        return zlib.decompress(self._source.compressed) if path == self.path else super().get_data(path)

    def set_data(self, path: Any, data: Any, *, _mode: int = 0) -> None:
        """Write no compiled code: it might be that of a file which is no longer there."""


class KeptSources(MetaPathFinder):
    """Finds the modules of some packages in memory, before Python looks for them on disk."""

    def __init__(self, packages: Iterable[str]) -> None:
        self._sources = dict(_sources(packages))

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self._sources.get(name)
        if source is None or not source.compressed:
            return None
        return spec_from_file_location(name, source.path, loader=KeptLoader(name, source))

    def changed(self) -> list[str]:
        """Return the packages of which a file is another one on disk now, or gone."""
        return sorted({name.partition(".")[0] for name, one in self._sources.items() if one.has_changed()})


def keep_sources(packages: Iterable[str] = PACKAGES) -> None:
    """Keep the sources of those of the packages that this process has imported, for itself and its children."""
    if not _kept():
        sys.meta_path.insert(0, KeptSources(name for name in packages if name in sys.modules))


def changed_packages() -> list[str]:
    """Return the packages that have changed on disk since their sources were kept."""
    return [name for kept in _kept() for name in kept.changed()]


def _kept() -> list[KeptSources]:
    return [finder for finder in sys.meta_path if isinstance(finder, KeptSources)]


def _sources(packages: Iterable[str]) -> Iterator[tuple[str, Source]]:
    for package in packages:
        for place in getattr(sys.modules[package], "__path__", ()):
            for path in sorted(Path(place).rglob("*.py")):
                parts = path.relative_to(place).with_suffix("").parts
                name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
                try:
                    status = path.stat()
                    content = b"" if name in sys.modules else zlib.compress(path.read_bytes(), 1)
                except OSError:
                    continue  # Python will look for it on disk
                yield name, Source(str(path), content, status.st_mtime, status.st_size)
