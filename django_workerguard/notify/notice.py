"""Notices: the findings that have appeared or cleared since the last notice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from django_workerguard.report.findings import Finding
from django_workerguard.report.remedies import as_text
from django_workerguard.values import value_class

SETTLED = 5.0  # seconds that a change must last before it is reported; a critical finding is reported at once
SEVERITIES = ("critical", "warning")  # that are reported
Key = tuple[str, int | None]


@value_class
class Notices:
    """The findings that were reported, and the changes that were not. Times are in seconds of one clock."""

    reported: Mapping[Key, Finding]
    changed: Mapping[Key, float]  # when a finding appeared, or a reported finding cleared

    def update(self, findings: Iterable[Finding], now: float) -> Notices:
        """Return the state with the present findings."""
        standing = _standing(findings)
        differing = {
            key for key in {*standing, *self.reported} if (key in standing) != (key in self.reported)
        }
        changed = {key: self.changed.get(key, now) for key in differing}
        # the text of a finding may have changed
        reported = {key: standing.get(key, finding) for key, finding in self.reported.items()}
        return replace(self, reported=reported, changed=changed)

    def due(self, findings: Iterable[Finding], now: float) -> bool:
        """Return whether a change must be reported now."""
        standing = _standing(findings)
        return any(
            now - since >= SETTLED or (key in standing and standing[key].severity == "critical")
            for key, since in self.changed.items()
        )

    def report(self, findings: Iterable[Finding]) -> tuple[Notices, dict[str, list[dict[str, Any]]]]:
        """Return the state after a report of all findings, and the notice to send."""
        standing = _standing(findings)
        notice = {
            "appeared": [asdict(finding) for key, finding in standing.items() if key not in self.reported],
            "cleared": [asdict(finding) for key, finding in self.reported.items() if key not in standing],
            "standing": [asdict(finding) for finding in standing.values()],
        }
        return Notices(standing, {}), notice


def _standing(findings: Iterable[Finding]) -> dict[Key, Finding]:
    return {(finding.code, finding.slot): finding for finding in findings if finding.severity in SEVERITIES}


def subject(notice: Mapping[str, Any]) -> str:
    """Return a notice in one line, for the subject of a mail or for a chat."""
    server = notice["server"]
    appeared, cleared = notice["appeared"], notice["cleared"]
    if appeared:
        more = f" (and {len(appeared) - 1} more)" if len(appeared) > 1 else ""
        text = f"{appeared[0]['severity']}: {appeared[0]['text']}{more}"
    else:
        text = f"cleared: {cleared[0]['text']}" if cleared else "nothing has changed"
    return " ".join(f"[{server['name']} on {server['host']}] {text}".split())


def message(notice: Mapping[str, Any]) -> str:
    """Return the whole notice as text."""
    server = notice["server"]
    lines = [
        f"{server['name']} on {server['host']}: {server['ready']} of {server['target']} workers are ready."
    ]
    for heading, key in (("New", "appeared"), ("Cleared", "cleared"), ("All findings", "standing")):
        if notice[key]:
            lines += ["", f"{heading}:"]
        # an arbiter from before an upgrade gives no remedies
        for remedy, alike in groupby(notice[key], lambda one: one.get("remedy", "")):
            lines += [f"- {one['severity']}: {one['text']}" for one in alike]
            if remedy and key == "standing":
                lines.append(f"  {as_text(remedy)}")
    return "\n".join([*lines, "", "Run `workerguard status` on that host for details.", ""])
