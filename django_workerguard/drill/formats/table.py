"""The report as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from django_workerguard.config.text import duration
from django_workerguard.drill.result import Report, Result, Run
from django_workerguard.drill.verdict import FAILED, NONE, SKIPPED

HEAD = ("ACT", "LOST", "LEAST READY", "BACK AFTER", "P99", "VERDICT")


def table(report: Report) -> str:
    """Return the tables of all servers, what they need to be understood, and the advice."""
    blocks = ["\n".join(_of_run(run, with_name=len(report.runs) > 1)) for run in report.runs]
    if report.notes:
        blocks.append("\n".join(f"Note: {note}" for note in report.notes))
    if report.changes:
        blocks.append("\n".join(("Changed for the drill:", *(f"  {change}" for change in report.changes))))
    if report.advice:
        blocks.append("\n".join(("Advice:", *(f"  {line}" for line in report.advice))))
    blocks.append(report.conclusion)
    return "\n\n".join(blocks)


def _of_run(run: Run, *, with_name: bool) -> Iterator[str]:
    if with_name:
        yield f"{run.server}, {run.target} workers"
    rows = [HEAD, *(cells(one, run.target) for one in run.results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    for row in rows:
        fixed = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
        yield "  ".join((*fixed, row[-1])).rstrip()
    for one in run.results:
        if one.verdict.kind in (FAILED, SKIPPED) or one.notes:
            for reason in (*one.verdict.reasons, *one.notes):
                yield f"  {one.act}: {reason}"


def cells(result: Result, target: int) -> tuple[str, ...]:
    """Return one row: what was measured, as text."""
    measures, verdict = result.measures, result.verdict.kind
    if measures is None:
        return (result.act, "-", "-", "-", "-", verdict)
    in_hand = f" ({measures.in_hand} in hand)" if measures.in_hand else ""
    back = duration(measures.back_after) if measures.back_after is not None else "never"
    return (
        result.act,
        f"{measures.lost} of {measures.requests}{in_hand}",
        f"{measures.least_ready} of {target}",
        "-" if result.act == "calm" else back,
        duration(measures.p99) if measures.p99 is not None else "-",
        verdict if verdict != NONE else "",
    )
