"""Text of others that a terminal or a log may be given: an exception, a file name. Pure."""

from __future__ import annotations


def plain(text: str) -> str:
    """Take out what could command a terminal: what a worker wrote is not to be trusted with one."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)
