"""The dashboard's style sheet, script and icons. Runs in the worker.

The dashboard serves them itself, without ``django.contrib.staticfiles``: a page for people on call must not depend
on a server for static files. The URL has a hash of the content, so that a browser may keep the file for ever.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from django_workerguard.values import value_class

FOLDER = Path(__file__).parent / "assets"
TYPES = {"dashboard.css": "text/css; charset=utf-8", "dashboard.js": "text/javascript; charset=utf-8"}
ICON_TYPE = "image/svg+xml"
# the icon of the tab for each state of the server: a colour, and a sign for people who do not see colours
ICONS: Mapping[str, tuple[str, str]] = {
    "well.svg": ("#1a7f37", "M9 17l5 5 10-12"),
    "notice.svg": ("#1a7f37", "M9 17l5 5 10-12"),
    "warning.svg": ("#9a6700", "M16 7v12M16 24v1"),
    "critical.svg": ("#c1121f", "M9 9l14 14M23 9L9 23"),
    "old.svg": ("#57606a", "M11 12a5 5 0 1 1 7 4.500q-2 1-2 4M16 25v1"),
}


@value_class
class Asset:
    """One file: its content, its type, and the hash of its content that its URL has."""

    content: bytes
    content_type: str
    digest: str


def asset(name: str) -> Asset | None:
    """Return a file of the dashboard; None if there is no such file."""
    # only known names are cached, because a client may request any name
    return _asset(name) if name in TYPES or name in ICONS else None


@functools.cache
def _asset(name: str) -> Asset:
    content = _icon(*ICONS[name]) if name in ICONS else (FOLDER / name).read_bytes()
    return Asset(content, TYPES.get(name, ICON_TYPE), hashlib.sha256(content).hexdigest()[:12])


def _icon(colour: str, sign: str) -> bytes:
    path = f'<path d="{sign}" fill="none" stroke="#fff" stroke-width="4" stroke-linecap="round"/>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f'<rect width="32" height="32" rx="7" fill="{colour}"/>{path}</svg>'
    ).encode()
