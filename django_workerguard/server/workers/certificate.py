"""The server's certificate as a step of the load. Runs in the worker, as its user.

gunicorn reads the files when a worker serves, or at every connection, so that a key that does not
fit makes a worker that is ready and answers nobody. Read within the load it is a failed load:
the worker leaves, a reload is frozen, and the workers that are there go on with what they have read.
"""

from __future__ import annotations

from typing import Any

from gunicorn import sock


def load_certificate(cfg: Any) -> None:
    """Read certificate and key once for this process. Raises OSError and ssl.SSLError."""
    context = sock.ssl_context(cfg)
    sock.ssl_context = lambda _cfg: context
