"""The report of a translation: a line for every line of the input, notes, and snippets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from django_workerguard.from_uwsgi.table import Verdict
from django_workerguard.from_uwsgi.translate.translation import INCOMPLETE, Translation

WIDEST = 44  # characters of an option and its value


def report(translation: Translation) -> str:
    """Return the report as text."""
    return "\n".join((*_table(translation), *_notes(translation), *_snippets(translation)))


def _table(translation: Translation) -> Iterator[str]:
    rows = [(str(line.place), _cut(line.text), line.verdict, line.explanation) for line in translation.report]
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(3)]
    for place, text, verdict, explanation in rows:
        yield f"{place:{widths[0]}}  {text:{widths[1]}}  {verdict:{widths[2]}}  {explanation}".rstrip()
    yield ""
    yield summary(translation)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else line[: WIDEST - 1] + "…"


def summary(translation: Translation) -> str:
    """Return the number of lines by verdict."""
    counts = Counter(line.verdict for line in translation.report)
    parts = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    return (
        f"{len(translation.report)} lines: {', '.join(parts)}." if parts else "There is nothing to translate."
    )


def _notes(translation: Translation) -> Iterator[str]:
    for note in translation.notes:
        yield f"- {note}"
    incomplete = sum(line.verdict in INCOMPLETE for line in translation.report)
    if incomplete:
        number = "One line is" if incomplete == 1 else f"{incomplete} lines are"
        yield f"- {number} lost or unknown: decide what to do about it before you switch."


def _snippets(translation: Translation) -> Iterator[str]:
    for snippet in translation.snippets:
        yield f"\n--- {snippet.title}\n{snippet.text}"
