"""Text for people: safe for a terminal or a log, sizes in MB, and short durations. Pure."""

from __future__ import annotations

MEGABYTE = 1 << 20


REPLACEMENT = "\ufffd"  # not by its name, for which Python would import unicodedata when it compiles this


def plain(text: str) -> str:
    """Replace characters that could control a terminal, because exceptions and file names may contain them."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else REPLACEMENT for char in text)


def in_megabytes(size: int, *, digits: int = 0, sign: str = "") -> str:
    """Return bytes as ``N MB``. ``sign`` "+" shows the sign of a growth too."""
    return f"{size / MEGABYTE:{sign}.{digits}f} MB"


def duration(seconds: float) -> str:
    """Return the duration of a request: ``N ms`` below a second, else ``N.N s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
