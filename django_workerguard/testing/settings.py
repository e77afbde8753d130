"""The project's settings, on the databases of a running test. Read by the server that the fixture starts.

Never on the configured ones: a database that the test has none for cannot be used at all.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

_module = import_module(os.environ["GUARDED_SERVER_SETTINGS"])
globals().update({name: getattr(_module, name) for name in dir(_module) if name.isupper()})

_of_the_test: dict[str, str] = json.loads(os.environ["GUARDED_SERVER_DATABASES"])


def _on_test_database(alias: str, configured: dict[str, Any]) -> dict[str, Any]:
    if alias in _of_the_test:
        return {**configured, "NAME": _of_the_test[alias]}
    return {"ENGINE": "django.db.backends.dummy"}


DATABASES = {
    alias: _on_test_database(alias, configured)
    for alias, configured in getattr(_module, "DATABASES", {}).items()
}
