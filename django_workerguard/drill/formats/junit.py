"""The report as JUnit XML, which CI systems read. Pure."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from django_workerguard.config.text import plain
from django_workerguard.drill.formats.table import HEAD, cells
from django_workerguard.drill.result import Report, Result
from django_workerguard.drill.verdict import FAILED, SKIPPED

SUITE = "workerguard drill"


def junit(report: Report) -> str:
    """Return one test case for each act of the guarded server. Other servers have no verdicts."""
    run = report.runs[0]
    skipped = sum(one.verdict.kind == SKIPPED for one in run.results)
    counts = f'tests="{len(run.results)}" failures="{len(report.failed)}" skipped="{skipped}" errors="0"'
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuites><testsuite name="{SUITE}" {counts} time="{report.seconds:.3f}">',
        *(line for one in run.results for line in _case(one, run.target)),
        f"<system-out>{_text(chr(10).join(report.advice))}</system-out>",
        "</testsuite></testsuites>",
    ]
    return "\n".join(lines) + "\n"


def failed_junit(reason: str) -> str:
    """Return a suite whose only case is an error: the drill could not run."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<testsuites><testsuite name="{SUITE}" tests="1" failures="0" skipped="0" errors="1">\n'
        f'<testcase classname="{SUITE}" name="start"><error message={_attribute(reason)}/></testcase>\n'
        "</testsuite></testsuites>\n"
    )


def _case(one: Result, target: int) -> list[str]:
    seconds = one.window.end - one.window.begin if one.window else 0.0
    head = f'<testcase classname="{SUITE}" name={_attribute(one.act)} time="{seconds:.3f}">'
    reasons = "; ".join(one.verdict.reasons)
    inside = []
    if one.verdict.kind == FAILED:
        inside.append(f"<failure message={_attribute(reasons)}/>")
    elif one.verdict.kind == SKIPPED:
        inside.append(f"<skipped message={_attribute(reasons)}/>")
    if one.measures:
        figures = ", ".join(
            f"{name.lower()}: {cell}" for name, cell in zip(HEAD[1:5], cells(one, target)[1:5], strict=True)
        )
        inside.append(f"<system-out>{_text(f'{one.title}. {figures}')}</system-out>")
    return [head, *inside, "</testcase>"]


def _text(text: str) -> str:
    return escape(_allowed(text))


def _attribute(text: str) -> str:
    return quoteattr(_allowed(text))


def _allowed(text: str) -> str:
    """Return the text without the characters that XML does not allow."""
    return "".join(
        char for char in plain(text) if not "\ud800" <= char <= "\udfff" and char not in "\ufffe\uffff"
    )
