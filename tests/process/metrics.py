"""Metrics as a server gives them, and what a project needs for them."""

from __future__ import annotations

from pathlib import Path

TOKEN = "a-token-of-the-tests"


BEARER = {"Authorization": f"Bearer {TOKEN}"}


DOCS = Path(__file__).resolve().parents[2] / "docs"


ALERTS = DOCS / "prometheus" / "alerts.yml"


def names(text: str) -> list[str]:
    """Return the series of a text of metrics, but for those that each scrape of a worker adds to, and that come with time."""
    lines = [line for line in text.splitlines() if "workerguard_utilisation" not in line]
    return [line.rpartition(" ")[0] for line in lines if "workerguard_request_duration" not in line]
