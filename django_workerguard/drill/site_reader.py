"""Reader of the site's settings for the drill. Runs in a process of its own, with Django.

``python -m django_workerguard.drill.site_reader FILE``. The JSON in FILE has the request, and gets the answer. The settings
are read in the project's own way: by its manage.py if there is one, else by the name of the module.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from django_workerguard.config import standard_streams
from django_workerguard.config.django_settings import settings_module
from django_workerguard.config.handover import applications_of
from django_workerguard.config.redact import in_short
from django_workerguard.config.settings_exchange import Request
from django_workerguard.config.settings_reader import DJANGO, SettingsHook, read

APP = "django_workerguard"


def main(file: Path) -> NoReturn:
    """Write the answer and end at once, without waiting for threads or exit hooks of the settings."""
    request = json.loads(file.read_text())
    sys.path[:] = request["path"]
    try:
        answer = _read(request["entry"], request["module"])
    except BaseException as error:
        answer = {"error": in_short(error)}
    file.write_text(json.dumps(answer, default=str))
    standard_streams.flush()
    os._exit(0)


def _read(entry: str, module: str) -> dict[str, Any]:
    if not entry:
        answer = read(Request(module=module, path=tuple(sys.path)))
        return {"error": answer.error} if answer.error else _content()
    sys.argv = [entry, "serve_guarded", *(["--settings", module] if module else []), "--help"]
    hook = SettingsHook()
    reached = hook.is_reached_by(lambda: runpy.run_path(entry, run_name="__main__"))
    if hook.error is not None:
        return {"error": in_short(hook.error)}
    return _content() if reached else {"error": f"{entry} has not read the settings"}


def _content() -> dict[str, Any]:
    settings = import_module(DJANGO).settings
    header = settings.SECURE_PROXY_SSL_HEADER
    return {
        "module": settings_module(settings),
        "is_installed": any(name.partition(".")[0] == APP for name in settings.INSTALLED_APPS),
        "databases": [
            {
                "alias": alias,
                "engine": str(database.get("ENGINE") or ""),
                "name": str(database.get("NAME") or ""),
                "test_name": str((database.get("TEST") or {}).get("NAME") or ""),
            }
            for alias, database in settings.DATABASES.items()
        ],
        "allowed_hosts": [str(host) for host in settings.ALLOWED_HOSTS],
        "debug": bool(settings.DEBUG),
        "ssl_redirect": bool(settings.SECURE_SSL_REDIRECT),
        "proxy_header": [str(header[0]), str(header[1])] if header else None,
        "applications": applications_of(settings),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
