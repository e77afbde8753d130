"""Findings that say the same of several slots, as one line. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django_workerguard.report.findings import Finding
from django_workerguard.values import value_class

RETRIED = ("load-failing", "cannot-start")  # codes whose texts end in the tries of the slot


@value_class
class Group:
    """Findings that differ only in their slots, as one line. ``slots`` is empty if they concern the whole server."""

    severity: str
    code: str
    slots: tuple[int, ...]
    text: str
    remedy: str


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Join the findings that say the same of several slots, in the order of the first of each."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for number, finding in enumerate(findings):
        key = (finding.code, _of_any_slot(finding)) if finding.slot is not None else ("", str(number))
        alike.setdefault(key, []).append(finding)
    groups = []
    for (_, text), same in alike.items():
        first = same[0]
        slots = tuple(sorted(finding.slot for finding in same if finding.slot is not None))
        shown = first.text if len(same) == 1 else f"slots {numbers(slots)}: {text}"
        groups.append(Group(first.severity, first.code, slots, shown, first.remedy))
    return groups


def _of_any_slot(finding: Finding) -> str:
    text = finding.text.removeprefix(f"slot {finding.slot}").removeprefix(":").strip()
    return text.rpartition("; ")[0] if finding.code in RETRIED else text


def numbers(slots: Sequence[int]) -> str:
    """Return numbers in ascending order as text: ``1–3, 7``."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][-1] + 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
