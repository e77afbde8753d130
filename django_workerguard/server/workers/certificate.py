"""Read the server's certificate as a step of the load. Runs in the worker, as the worker's user.

gunicorn reads the files when a worker starts to serve, or at every connection. If the key does not match, the worker would
be ready and answer no client. As a step of the load, this is a failed load: the worker leaves, a reload is frozen, and the
other workers go on with the certificate that they have read.
"""

from __future__ import annotations

from typing import Any

from gunicorn import sock


def load_certificate(cfg: Any) -> None:
    """Read the certificate and the key once for this process. Raises OSError and ssl.SSLError."""
    context = sock.ssl_context(cfg)
    sock.ssl_context = lambda _cfg: context
