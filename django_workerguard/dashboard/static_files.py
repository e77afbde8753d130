"""The dashboard's style sheet and script. Runs in the worker.

The dashboard serves them itself, without ``django.contrib.staticfiles``: a page for people on call must not depend
on a server for static files. The URL has a hash of the content, so that a browser may keep the file for ever.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "assets"
TYPES = {"dashboard.css": "text/css; charset=utf-8", "dashboard.js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class Asset:
    """One file: its content, its type, and the hash of its content that its URL has."""

    content: bytes
    content_type: str
    digest: str


def asset(name: str) -> Asset | None:
    """Return a file of the dashboard; None if there is no such file."""
    # only known names are cached, because a client may request any name
    return _asset(name) if name in TYPES else None


@functools.cache
def _asset(name: str) -> Asset:
    content = (FOLDER / name).read_bytes()
    return Asset(content, TYPES[name], hashlib.sha256(content).hexdigest()[:12])
