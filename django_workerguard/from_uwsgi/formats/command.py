"""The command line and the file of variables. Pure."""

from __future__ import annotations

import shlex

from django_workerguard.from_uwsgi.formats.arguments import serve_arguments, variables
from django_workerguard.from_uwsgi.translate.application import SETTINGS
from django_workerguard.from_uwsgi.translate.translation import Translation


def command(translation: Translation) -> str:
    """Return a command for a shell."""
    assignments = [
        f"{name}={shlex.quote(value)}" for name, value in translation.environ.items() if name != SETTINGS
    ]
    head = " ".join([shlex.quote(translation.python), "-m", "django_workerguard", "serve"])
    arguments = [shlex.join(group) for group in serve_arguments(translation)]
    return " \\\n    ".join([*assignments, head, *arguments]) + "\n"


def environment_file(translation: Translation) -> str:
    """Return lines for a file of variables, as systemd's EnvironmentFile and a shell read it."""
    start = f"# start: {translation.python} -m django_workerguard serve\n"
    return start + "".join(f"{name}={_quoted(value)}\n" for name, value in variables(translation).items())


def _quoted(value: str) -> str:
    """Quote for both: in single quotes neither of them puts in variables."""
    if shlex.quote(value) == value:
        return value
    return "'" + value.replace("'", "'\\''") + "'"
