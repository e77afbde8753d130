"""``WORKERGUARD`` for the settings, and gunicorn.conf.py. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_workerguard.from_uwsgi.formats.arguments import EARLY, is_of_guard
from django_workerguard.from_uwsgi.translate.application import SETTINGS
from django_workerguard.from_uwsgi.translate.translation import Translation

OCTAL = frozenset({"UMASK"})


def settings(translation: Translation) -> str:
    """Return WORKERGUARD for the Django settings. What the settings are too late for stands in comments."""
    lines = ["# settings.py"]
    if translation.python != "python":
        lines.append(f"# Start the server with {translation.python} manage.py serve_guarded")
    for key in sorted(EARLY & translation.settings.keys()):
        place = "in the directory" if key == "CHDIR" else "with --pythonpath"
        lines.append(f"# Start the server {place} {_comment(str(translation.settings[key]))}")
    if translation.environ:  # the names alone: settings are kept with the code, and secrets are not
        names = (
            f"{SETTINGS}={value}" if name == SETTINGS else name for name, value in translation.environ.items()
        )
        lines.append(f"# Needed in the environment: {_comment(', '.join(names))}")
    late = {key: value for key, value in translation.settings.items() if key not in EARLY}
    return "\n".join((*lines, *_dictionary("WORKERGUARD", late))) + "\n"


def gunicorn_conf(translation: Translation) -> str:
    """Return gunicorn.conf.py: gunicorn's settings by their names, the guard's in WORKERGUARD."""
    guard = {key: value for key, value in translation.settings.items() if is_of_guard(key)}
    server = {key: value for key, value in translation.settings.items() if not is_of_guard(key)}
    lines = [
        "# gunicorn.conf.py",
        *(f"{key.lower()} = {_value(key, value)}" for key, value in server.items()),
    ]
    if translation.environ:
        assignments = [f"{name}={value}" for name, value in translation.environ.items()]
        lines += ["raw_env = [", *(f"    {_text(one)}," for one in assignments), "]"]
    return "\n".join((*lines, *_dictionary("WORKERGUARD", guard))) + "\n"


def _dictionary(name: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {{", *(f'    "{key}": {_value(key, value)},' for key, value in values.items()), "}"]


def _value(key: str, value: Any) -> str:
    if key in OCTAL:
        return f"0o{value:03o}"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(_text(str(item)) for item in value)}]"
    return repr(value)


def _text(value: str) -> str:
    """Write a string in double quotes where that needs no escapes."""
    plain = repr(value)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain


def _comment(text: str) -> str:
    return text.replace("\n", " ").replace("\r", " ")
