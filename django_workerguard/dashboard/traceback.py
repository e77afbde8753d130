"""Tracebacks as HTML, with the project's own frames marked. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from django_workerguard.config.text import plain

FRAME = re.compile(r'^\s*File "(?P<file>[^"\n]*)", line (?P<line>\d+)(?:, in (?P<function>.*))?$')
# directories of code that is installed, also inside the project's own
INSTALLED = ("/site-packages/", "/dist-packages/", "/lib/python", "/lib64/python")


def traceback(text: str, project: str) -> str:
    """Render a traceback. The frames of files in the project's directory are marked."""
    blocks = "".join(
        f"<mark>{escape(block)}</mark>" if own else escape(block)
        for block, own in _blocks(plain(text), project)
    )
    return f'<pre class="wg-traceback" tabindex="0">{blocks}</pre>'


def own_frame(text: str, project: str) -> str:
    """Return file, line and function of the innermost frame in the project; "" if there is none."""
    own = ""
    for line in plain(text).splitlines():
        match = FRAME.match(line)
        if match is not None and _is_own(match["file"], project):
            function = f", in {match['function']}" if match["function"] else ""
            own = f"{match['file'].removeprefix(project).lstrip('/')}, line {match['line']}{function}"
    return own


def _blocks(text: str, project: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of each frame together, and whether it is the project's own; other lines one by one."""
    block, own = "", False
    for line in text.splitlines(keepends=True):
        match = FRAME.match(line.rstrip("\n"))
        if match is None and line.startswith("    "):
            block += line
            continue
        if block:
            yield block, own
        block, own = line, match is not None and _is_own(match["file"], project)
    if block:
        yield block, own


def _is_own(file: str, project: str) -> bool:
    inside = not project or file.startswith(project.rstrip("/") + "/") or not file.startswith("/")
    return inside and not file.startswith("<") and not any(part in file for part in INSTALLED)
