"""The dashboard's style sheet and script, served by itself. Runs in the worker.

Not by ``django.contrib.staticfiles``: a server for on call must not depend on who serves the site's
static files, if anybody does. The address holds a word of the content, so that it may be kept for ever.
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
    """One file: its content, what it is, and the word that stands for its content in its address."""

    content: bytes
    content_type: str
    word: str


def asset(name: str) -> Asset | None:
    """Return a file of the dashboard; None where it has none of that name."""
    return _asset(name) if name in TYPES else None  # a client may ask for any name: only these are kept


@functools.cache
def _asset(name: str) -> Asset:
    content = (FOLDER / name).read_bytes()
    return Asset(content, TYPES[name], hashlib.sha256(content).hexdigest()[:12])
