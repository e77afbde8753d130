"""The monitor's page: the state of the server for a person, as HTML without a script. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from django_workerguard.config.text import duration, plain
from django_workerguard.report.findings import assess
from django_workerguard.report.groups import Group, grouped
from django_workerguard.report.remedies import as_html
from django_workerguard.report.tables import REQUEST_COLUMNS, columns, headlines, request_row, row

REFRESH = 5  # seconds
MOST_REQUESTS = 20
LATENCY = ("P50", "P95", "P99")  # columns: of the last minute's requests
STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1b1b1b;background:#fff}"
    "table{border-collapse:collapse}th,td{text-align:left;padding:.15rem 1rem .15rem 0;white-space:nowrap}"
    ".critical{color:#a40000}.warning{color:#7a4f00}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}.critical{color:#ff8a80}.warning{color:#ffcc66}}"
)
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# headers of the page
POLICY = (
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
)

Snapshot = Mapping[str, Any]


def status_page(shot: Snapshot, pools: Iterable[Snapshot], served: Mapping[str, Any]) -> str:
    """Render the server, its pools and its oldest requests. ``served``: what `in_hand.requests_of_servers` returns."""
    parts = [_server(shot), *(_server(pool) for pool in pools), _requests(served)]
    title = escape(plain(f"{shot['name']} on {shot['host']}"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="{REFRESH}">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _server(shot: Snapshot) -> str:
    first, *more = (escape(plain(line)) for line in headlines(shot))
    groups = grouped(assess(shot))
    findings = "".join(
        f'<li class="{escape(group.severity)}">{escape(plain(f"{group.severity}: {group.text}"))}{_remedy(group)}</li>'
        for group in groups
    )
    lines = "".join(f"<p>{line}</p>" for line in more)
    names = columns(shot) if shot["kind"] == "celery" else (*columns(shot), *LATENCY)
    rows = ((*row(slot, shot["at"]), *_latency(slot))[: len(names)] for slot in shot["slots"])
    slots = _table(names, rows)
    worst = groups[0].severity if groups else "well"
    listed = f"<ul>{findings}</ul>" if findings else ""
    return f'<h1 class="{escape(worst)}">{first}</h1>{listed}{lines}{slots}'


def _remedy(group: Group) -> str:
    return f"<br>{as_html(group.remedy)}" if group.remedy else ""


def _latency(slot: Mapping[str, Any]) -> tuple[str, ...]:
    latency = slot["latency"]
    return tuple(map(duration, latency.values())) if latency else ("-",) * len(LATENCY)


def _requests(served: Mapping[str, Any]) -> str:
    requests = served["requests"]
    if not requests:
        return "<h2>Requests</h2><p>No request is being served.</p>"
    hidden = max(0, len(requests) - MOST_REQUESTS) + served["not_listed"]
    more = f"<p>and {hidden} more</p>" if hidden else ""
    return (
        f"<h2>Oldest requests</h2>{_table(REQUEST_COLUMNS, map(request_row, requests[:MOST_REQUESTS]))}{more}"
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(plain(cell))}</td>' for cell in cells)}</tr>" for cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
