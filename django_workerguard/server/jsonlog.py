"""gunicorn's logs as JSON, an object a line. Runs in the arbiter and in the workers."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

# what the arbiter says of a life-cycle event beyond its sentence
FIELDS = ("action", "slot", "generation", "worker")
# gunicorn's atoms of a request, under names that can be read
ATOMS = {
    "h": "remote",
    "m": "method",
    "U": "path",
    "q": "query",
    "H": "protocol",
    "s": "status",
    "B": "bytes",
    "a": "agent",
    "L": "seconds",
}


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: ``at``, ``level``, ``logger``, ``pid``, ``message``, and what else it carries."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        said |= {field: getattr(record, field) for field in FIELDS if hasattr(record, field)}
        if isinstance(record.args, dict):
            atoms = record.args
            said |= {name: atoms[atom] for atom, name in ATOMS.items() if atom in atoms}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def write_json(log: Any) -> None:
    """Have gunicorn's logger write JSON, wherever it writes to."""
    for logger in (log.error_log, log.access_log):
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())
