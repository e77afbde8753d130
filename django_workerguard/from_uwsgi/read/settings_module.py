"""The settings module that a project's wsgi.py names, found without running it. Runs in the command."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence

from django_workerguard.from_uwsgi.directive import ReadError
from django_workerguard.from_uwsgi.read.file import LARGEST_VALUE, UnreadableFileError, read_text
from django_workerguard.from_uwsgi.read.machine import Machine

NAME = "DJANGO_SETTINGS_MODULE"


def settings_module(machine: Machine, module: str, directories: Sequence[str]) -> str:
    """Return the settings that a WSGI module puts into the environment; "" if it cannot be seen in its text."""
    for directory in directories or ("",):
        path = os.path.join(machine.absolute(directory), *module.split(".")) + ".py"
        try:
            tree = ast.parse(read_text(path, largest=LARGEST_VALUE))
        except (UnreadableFileError, ReadError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return next(_named(tree), "")
    return ""


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="setdefault"),
                args=[ast.Constant(str(name)), ast.Constant(str(value))],
            ) if name == NAME:
                yield value
            case ast.Assign(
                targets=[ast.Subscript(slice=ast.Constant(str(name)))], value=ast.Constant(str(value))
            ) if name == NAME:
                yield value
