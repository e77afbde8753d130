"""A panel for django-debug-toolbar: the worker that has answered the request. Runs in the worker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from debug_toolbar.panels import Panel
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from django_workerguard.config.text import duration, in_megabytes
from django_workerguard.report.tables import quantiles
from django_workerguard.worker.current import CurrentWorker, current_worker

NOT_GUARDED = "This process is no worker of serve_guarded."


class WorkerPanel(Panel):
    """Slot, generation, age, load, memory and queue time; for ``DEBUG_TOOLBAR_PANELS``."""

    title = "Worker"
    nav_title = "Worker"
    is_async = True

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        worker = current_worker()
        self.record_stats({"rows": [] if worker is None else rows(worker)})

    @property
    def nav_subtitle(self) -> str:
        return ", ".join(value for _, value in self._rows[:2])

    @property
    def content(self) -> SafeString:
        if not self._rows:
            return format_html("<p>{}</p>", NOT_GUARDED)
        body = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", self._rows)
        return format_html("<table><tbody>{}</tbody></table>", body)

    @property
    def _rows(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = self.get_stats().get("rows", [])
        return found


def rows(worker: CurrentWorker) -> list[tuple[str, str]]:
    """Return the names and values that the panel shows. The queue time is that of the whole server in the last minute."""
    shot = worker.snapshot()
    slot: Mapping[str, Any] = next(slot for slot in shot["slots"] if slot["slot"] == worker.slot)
    about = [
        ("Slot", f"slot {worker.slot}"),
        ("Generation", f"generation {worker.generation}"),
        ("Process", str(worker.pid)),
        ("State", str(slot["state"])),
        ("In this state for", duration(max(0.0, time.time() - slot["since"]))),
        ("Load", "-" if slot["load_seconds"] is None else duration(slot["load_seconds"])),
        ("Memory", in_megabytes(slot["rss_bytes"] or 0)),
        ("Requests of the slot", str(slot["requests"])),
        ("Queue time, last minute", quantiles(shot["queue"]) if shot["queue"] else "-"),
        ("Server", f"{shot['name']}: {shot['ready']} of {shot['target']} ready"),
    ]
    return [*about, *([("Release", worker.release)] if worker.release else [])]
