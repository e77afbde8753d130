"""What Python keeps of directories and archives that it imports from. Runs in the worker, and in the arbiter at a reload."""

from __future__ import annotations

import importlib
import linecache
import pkgutil
import sys


def clear_import_caches() -> None:
    """Have the next imports look at the disk, as in a new process: a directory or an archive may have been replaced."""
    importlib.invalidate_caches()
    places = list(sys.path_importer_cache)
    sys.path_importer_cache.clear()
    for place in places:
        # the next call invalidates only finders that exist, and zipimport reads an archive again only when its finder is told
        pkgutil.get_importer(place)
    linecache.clearcache()
    if metadata := sys.modules.get("importlib.metadata"):
        metadata.MetadataPathFinder().invalidate_caches()  # Python 3.13 does it by itself
