"""What a drill has found: a result for each act and server. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django_workerguard.drill.measure import Measures, Ready, Request, Window
from django_workerguard.drill.verdict import FAILED, OK, SKIPPED, Verdict
from django_workerguard.values import value_class

VERSION = 1  # of the JSON document


@value_class(kw_only=True)
class Result:
    """One act on one server. ``window`` and ``measures`` are None if it was not played."""

    act: str
    title: str
    verdict: Verdict
    window: Window | None = None
    measures: Measures | None = None
    notes: tuple[str, ...] = ()  # what is not a verdict: what plain gunicorn did


@value_class(kw_only=True)
class Run:
    """All acts on one server, with the data of the timeline."""

    server: str
    target: int
    results: tuple[Result, ...]
    requests: Sequence[Request] = ()
    ready: Sequence[Ready] = ()
    events: Sequence[Mapping[str, Any]] = ()


@value_class(kw_only=True)
class Report:
    """The whole drill. The first run is that of the guarded server, the only one with verdicts."""

    settings: str
    paths: tuple[str, ...]
    seconds: float
    runs: tuple[Run, ...]
    changes: tuple[str, ...] = ()  # options that were changed for the drill
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Result]:
        return [one for one in self.runs[0].results if one.verdict.kind == FAILED]

    @property
    def conclusion(self) -> str:
        """One line: how many acts went as promised."""
        kinds = [one.verdict.kind for one in self.runs[0].results]
        parts = [f"{kinds.count(OK)} of {len(kinds) - kinds.count(SKIPPED)} acts went as promised"]
        if self.failed:
            parts.append(f"failed: {', '.join(one.act for one in self.failed)}")
        if skipped := [one.act for one in self.runs[0].results if one.verdict.kind == SKIPPED]:
            parts.append(f"not played: {', '.join(skipped)}")
        return "; ".join(parts) + "."


def as_document(report: Report) -> dict[str, Any]:
    """Return the report as plain values, without the data of the timeline. Durations are in seconds."""
    return {
        "version": VERSION,
        "settings": report.settings,
        "paths": list(report.paths),
        "seconds": round(report.seconds, 1),
        "ok": not report.failed,
        "runs": [
            {
                "server": run.server,
                "target": run.target,
                "acts": [
                    {
                        "act": one.act,
                        "title": one.title,
                        "verdict": one.verdict.kind,
                        "reasons": list(one.verdict.reasons),
                        "notes": list(one.notes),
                        "measures": asdict(one.measures) if one.measures else None,
                    }
                    for one in run.results
                ],
            }
            for run in report.runs
        ],
        "changes": list(report.changes),
        "notes": list(report.notes),
        "advice": list(report.advice),
    }
