"""The project's settings, but with the databases of the running test. Runs in the server that the fixture starts.

The server never uses the configured databases: without a test database, an alias cannot be used at all.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

_module = import_module(os.environ["GUARDED_SERVER_SETTINGS"])
globals().update({name: getattr(_module, name) for name in dir(_module) if name.isupper()})

_test_databases: dict[str, str] = json.loads(os.environ["GUARDED_SERVER_DATABASES"])


def _on_test_database(alias: str, configured: dict[str, Any]) -> dict[str, Any]:
    if alias in _test_databases:
        return {**configured, "NAME": _test_databases[alias]}
    return {"ENGINE": "django.db.backends.dummy"}


DATABASES = {
    alias: _on_test_database(alias, configured)
    for alias, configured in getattr(_module, "DATABASES", {}).items()
}
