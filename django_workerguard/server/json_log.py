"""gunicorn's logs as JSON, an object a line. Runs in the arbiter and in the workers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
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


# %({x-request-id}i)s: a header of the request (i) or of the response (o), or a variable of the environ (e)
NAMED = re.compile(r"%\((\{([^}]+)\}[ioe])\)s")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: ``at``, ``level``, ``logger``, ``pid``, ``message``, and what else it carries."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        fields |= {field: getattr(record, field) for field in FIELDS if hasattr(record, field)}
        if isinstance(record.args, dict):
            atoms = record.args
            fields |= {name: atoms[atom] for atom, name in ATOMS.items() if atom in atoms}
            fields |= _chosen(str(record.msg), atoms)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _chosen(access_log_format: str, atoms: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers and variables that an access log format names, and the client behind a proxy's unix socket."""
    chosen = {name: atoms[atom] for atom, name in NAMED.findall(access_log_format) if atom in atoms}
    forwarded = atoms.get("{x-forwarded-for}i", "")
    if not atoms.get("h") and forwarded:
        # the last address is the one that the proxy itself has seen
        chosen["remote"] = str(forwarded).rpartition(",")[2].strip()
    return chosen


def write_json(log: Any) -> None:
    """Have gunicorn's logger write JSON, wherever it writes to."""
    for logger in (log.error_log, log.access_log):
        for handler in logger.handlers:
            handler.setFormatter(JsonFormatter())
