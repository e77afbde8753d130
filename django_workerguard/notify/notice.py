"""What there is to notify somebody of: findings that have appeared, and such that have cleared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from django_workerguard.report.findings import Finding

SETTLED = (
    5.0  # seconds that a finding must stand, or be gone, before it is told; critical ones are told at once
)
TOLD = ("critical", "warning")
Key = tuple[str, int | None]


@dataclass(frozen=True)
class Notices:
    """Which findings were told, and since when what is not told yet has been so. Times are of one clock, in seconds."""

    told: Mapping[Key, Finding]
    changed: Mapping[
        Key, float
    ]  # since when a finding that was not told stands, or one that was told is gone

    def see(self, findings: Iterable[Finding], now: float) -> Notices:
        """Take in what stands now."""
        standing = _worth_telling(findings)
        differing = {key for key in {*standing, *self.told} if (key in standing) != (key in self.told)}
        changed = {key: self.changed.get(key, now) for key in differing}
        told = {
            key: standing.get(key, finding) for key, finding in self.told.items()
        }  # the text may have grown
        return replace(self, told=told, changed=changed)

    def due(self, findings: Iterable[Finding], now: float) -> bool:
        """Say whether there is something to tell."""
        standing = _worth_telling(findings)
        return any(
            now - since >= SETTLED or (key in standing and standing[key].severity == "critical")
            for key, since in self.changed.items()
        )

    def tell(self, findings: Iterable[Finding]) -> tuple[Notices, dict[str, list[dict[str, Any]]]]:
        """Return how it is once everything was told, and what is to be told."""
        standing = _worth_telling(findings)
        notice = {
            "appeared": [asdict(finding) for key, finding in standing.items() if key not in self.told],
            "cleared": [asdict(finding) for key, finding in self.told.items() if key not in standing],
            "standing": [asdict(finding) for finding in standing.values()],
        }
        return Notices(standing, {}), notice


def _worth_telling(findings: Iterable[Finding]) -> dict[Key, Finding]:
    return {(finding.code, finding.slot): finding for finding in findings if finding.severity in TOLD}


def subject(notice: Mapping[str, Any]) -> str:
    """Say a notice in one line: for the subject of a mail, or a chat."""
    server = notice["server"]
    appeared, cleared = notice["appeared"], notice["cleared"]
    if appeared:
        more = f" (and {len(appeared) - 1} more)" if len(appeared) > 1 else ""
        what = f"{appeared[0]['severity']}: {appeared[0]['text']}{more}"
    else:
        what = f"cleared: {cleared[0]['text']}" if cleared else "nothing has changed"
    return " ".join(f"[{server['name']} on {server['host']}] {what}".split())


def message(notice: Mapping[str, Any]) -> str:
    """Say a notice in full, as text."""
    server = notice["server"]
    lines = [
        f"{server['name']} on {server['host']}: {server['ready']} of {server['target']} workers are ready."
    ]
    for heading, key in (("New", "appeared"), ("Gone", "cleared"), ("ServerStatus", "standing")):
        if notice[key]:
            lines += ["", f"{heading}:", *(f"- {one['severity']}: {one['text']}" for one in notice[key])]
    return "\n".join([*lines, "", "`workerguard status` on that host shows more.", ""])
