"""gunicorn's access log in the form of uWSGI's request log. Runs in the workers."""

from __future__ import annotations

import itertools
import logging
import time
from typing import Any


class UwsgiFormatter(logging.Formatter):
    """Writes a request as uWSGI does, so that what reads its log goes on working.

    Both numbers of ``req`` count this worker's requests, because no worker counts those of all. The variables are those of
    the environ, the headers those of the application's response. The number of switches is always 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._requests = itertools.count(1)

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record.args, dict):
            return super().format(record)
        atoms = {name: "-" if value is None else value for name, value in record.args.items()}
        number = next(self._requests)
        variables = [
            (name, value) for name, value in atoms.items() if name.endswith("}e") and isinstance(value, str)
        ]
        headers = [(name, value) for name, value in atoms.items() if name.endswith("}o")]
        user = atoms.get("u", "-")
        return (
            f"[pid: {record.process}|app: 0|req: {number}/{number}] {atoms.get('h', '')} ({'' if user == '-' else user}) "
            f"{{{len(variables)} vars in {_size(variables, 4)} bytes}} [{time.ctime(record.created)}] "
            f"{atoms.get('m')} {atoms.get('{raw_uri}e', atoms.get('U'))} => generated {atoms.get('B')} bytes in "
            f"{atoms.get('M')} msecs ({atoms.get('H')} {atoms.get('s')}) {len(headers)} headers in {_size(headers, 4)} bytes "
            "(1 switches on core 0)"
        )


def _size(pairs: list[tuple[str, Any]], around: int) -> int:
    """Return the size of names and values in bytes, with ``around`` more for each pair.

    The names are gunicorn's, such as ``{host}i``: the braces and the letter do not count.
    """
    return sum(len(name) - 3 + len(str(value)) + around for name, value in pairs)


def write_as_uwsgi(log: Any) -> None:
    """Have gunicorn's logger write its access log as uWSGI does."""
    for handler in log.access_log.handlers:
        handler.setFormatter(UwsgiFormatter())
