"""What the monitor answers, from the scoreboard. Runs in the monitor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.findings import with_findings
from django_workerguard.report.health import (
    KINDS,
    Answer,
    ProbeKind,
    answer,
    bears_token,
    respond,
    wants_json,
)
from django_workerguard.report.metrics_text import OPENMETRICS, TEXT, accepts_openmetrics, metrics_text
from django_workerguard.report.status_page import POLICY, status_page
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.in_hand import requests_of_servers
from django_workerguard.scoreboard.snapshot import snapshot, snapshots_of_pools

PLAIN = "text/plain; charset=utf-8"
DENIED = "Permission denied. Send the health-token in the header 'Authorization: Bearer'.\n"
NOT_THIS_HOST = "Permission denied. Without a health-token the request must name an IP address or localhost as its host.\n"
NOTHING = "There is nothing at this path. Known are /, live/, ready/, startup/, metrics and status.json.\n"


class Answers:
    """Answers by path. ``local``: the address is a loopback address."""

    def __init__(self, board: Board, *, token: str, local: bool, project: str, run_dir: str | None) -> None:
        self._board = board
        self._token = token
        self._local = local
        self._project = project
        self._run_dir = run_dir
        self._kinds: dict[str, ProbeKind] = {f"/{kind}": kind for kind in KINDS}
        self._documents: dict[str, Callable[[str], Answer]] = {
            "": self._page,
            "/metrics": self._metrics,
            "/status.json": self._status,
        }

    def answer(self, target: str, header: Callable[[str, str], str]) -> Answer:
        """Answer a GET request. ``target``: its path and query; ``header``: returns a header by name, or the default."""
        try:
            parts = urlsplit(target)
        except ValueError:
            return respond(400, "The address cannot be read.\n", PLAIN)
        path, accept = parts.path.rstrip("/"), header("Accept", "")
        refusal = self._refusal(header("Authorization", ""), header("Host", ""))
        if path in self._kinds:
            query = parse_qs(parts.query)
            return answer(
                self._kinds[path],
                self._board.vitals,
                loaded=None,
                now=monotonic_ns() / 1e9,
                as_json=wants_json(accept, format=query.get("format", [""])[-1]),
                detailed=not refusal,
            )
        if path not in self._documents:
            return respond(404, NOTHING, PLAIN)
        return respond(403, refusal, PLAIN) if refusal else self._documents[path](accept)

    def _refusal(self, authorization: str, host: str) -> str:
        """Return why a client may not see more than yes or no; "" if it may.

        A page of another site can have its name point to 127.0.0.1, and then read what it gets from there with the browser
        of a person on this host. The header ``Host`` has the name.
        """
        if self._token:
            return "" if bears_token(authorization, self._token) else DENIED
        return NOT_THIS_HOST if self._local and not _is_address(host) else ""

    def _pools(self) -> list[dict[str, Any]]:
        return snapshots_of_pools(self._project, self._run_dir, environ=os.environ, uid=os.geteuid())

    def _metrics(self, accept: str) -> Answer:
        openmetrics = accepts_openmetrics(accept)
        text = metrics_text(snapshot(self._board), self._pools(), openmetrics=openmetrics)
        return respond(200, text, OPENMETRICS if openmetrics else TEXT)

    def _status(self, accept: str) -> Answer:
        server, *pools = (with_findings(shot) for shot in (snapshot(self._board), *self._pools()))
        return respond(200, json.dumps({**server, "pools": pools}, indent=2) + "\n", "application/json")

    def _page(self, accept: str) -> Answer:
        page = status_page(snapshot(self._board), self._pools(), requests_of_servers([self._board]))
        made = respond(200, page, "text/html; charset=utf-8")
        return Answer(made.status, (*made.headers, *POLICY), made.body)


def _is_address(host: str) -> bool:
    """Return whether the header ``Host`` has an IP address or localhost, or is missing."""
    name = host.strip().lower()
    name = name.partition("]")[0].lstrip("[") if name.startswith("[") else name.partition(":")[0]
    return name in ("", "localhost") or not name.strip("0123456789.") or ":" in name
