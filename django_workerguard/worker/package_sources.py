"""The sources of some packages as they were when the server started. Made in the arbiter, used in its children.

A child imports modules that the arbiter has not imported: the sentinel, and modules that gunicorn and uvicorn import
late. If such a package is upgraded on disk meanwhile, these modules no longer fit the modules that the child inherits
from the arbiter. So the child imports each of them as it was at the start.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from django_workerguard.values import value_class

# packages that are imported partly in the arbiter and partly in the worker
PACKAGES = ("django_workerguard", "gunicorn", "uvicorn", "uvicorn_worker")
# parts of them that no child imports: keeping these would only cost memory
NOT_IMPORTED = (
    "django_workerguard.cli.",
    "django_workerguard.from_uwsgi.",
    "django_workerguard.management.",
    "django_workerguard.testing.",
    "gunicorn.dirty.",
)


@value_class(slots=True)
class Source:
    """A module's file: its content, and the time and size by which Python knows whether compiled code fits it.

    The content is empty if the arbiter had already imported the module, or if no child imports it.
    """

    path: str
    compressed: bytes
    mtime: float
    size: int

    def has_changed(self) -> bool:
        """Return whether the file has changed or is gone."""
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_mtime, status.st_size) != (self.mtime, self.size)


class KeptLoader(SourceFileLoader):
    """Loads a module from a kept source; uses compiled code on disk as long as it fits that source."""

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name, source.path)
        self._source = source

    def path_stats(self, path: Any) -> dict[str, float]:
        return {"mtime": self._source.mtime, "size": self._source.size}

    def get_data(self, path: Any) -> bytes:
        return zlib.decompress(self._source.compressed) if path == self.path else super().get_data(path)

    def set_data(self, path: Any, data: Any, *, _mode: int = 0) -> None:
        """Write no compiled code, because the source on disk may have changed."""


class KeptSources(MetaPathFinder):
    """Finds the modules of some packages in memory, before Python searches the disk."""

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
        """Return the packages with a file that has changed on disk or is gone."""
        return sorted(
            {name.partition(".")[0] for name, source in self._sources.items() if source.has_changed()}
        )


def keep_sources(packages: Iterable[str] = PACKAGES) -> None:
    """Keep the sources of the packages that this process has imported, for itself and its children."""
    if not _finders():
        sys.meta_path.insert(0, KeptSources(name for name in packages if name in sys.modules))


def changed_packages() -> list[str]:
    """Return the packages that have changed on disk since their sources were kept."""
    return [name for finder in _finders() for name in finder.changed()]


def _finders() -> list[KeptSources]:
    return [finder for finder in sys.meta_path if isinstance(finder, KeptSources)]


def _sources(packages: Iterable[str]) -> Iterator[tuple[str, Source]]:
    for package in packages:
        for place in getattr(sys.modules[package], "__path__", ()):
            for path in sorted(Path(place).rglob("*.py")):
                parts = path.relative_to(place).with_suffix("").parts
                name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
                try:
                    status = path.stat()
                    is_kept = name not in sys.modules and not name.startswith(NOT_IMPORTED)
                    content = zlib.compress(path.read_bytes(), 1) if is_kept else b""
                except OSError:
                    continue  # Python then searches the disk
                yield name, Source(str(path), content, status.st_mtime, status.st_size)
