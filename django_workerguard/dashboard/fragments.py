"""The parts of the dashboard that the page fetches again and again, as HTML. Pure.

They are built without templates, because 64 slots must cost a worker less than five milliseconds.
They have no style and no script, so that a strict Content-Security-Policy works: positions are
attributes of SVG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from django_workerguard.config.text import MEGABYTE, duration, in_megabytes, plain
from django_workerguard.dashboard.tiles import (
    TASKS,
    Place,
    Recent,
    brief,
    large,
    middle,
    mold_tile,
    per_second,
    small,
)
from django_workerguard.report.findings import Finding, assess
from django_workerguard.report.groups import Group, grouped, numbers
from django_workerguard.report.remedies import as_html
from django_workerguard.report.sentences import sentence
from django_workerguard.report.tables import (
    MEMORY_ORDERS,
    by_growth,
    event_line,
    generation,
    phase,
    span,
    utc,
)

Snapshot = Mapping[str, Any]
Tile = Callable[[Mapping[str, Any], Recent, Place, Sequence[Finding]], str]

MANY = 16  # with more slots their tiles are small
MOST_LARGE = 6
MOST_FINDINGS = 6  # shown; the others are a click away
SLOW_ENOUGH = 1.0  # seconds after which a request is listed among the oldest: the page's own are younger
OLDEST = 5
MOST_VIEWS = 5  # of a slot
NOTHING = Recent()


def worst_of(findings: Sequence[Finding]) -> str:
    """Return the state of a server in a word: well, notice, warning or critical."""
    return findings[0].severity if findings else "well"


def summary(shot: Snapshot) -> str:
    """Return the state of the server in a line, without values that change all the time, such as its age."""
    findings = assess(shot)
    worst = f"; {findings[0].severity}: {findings[0].code}" if findings else ""
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    return f"{shot['ready']} of {shot['target']} ready, {phase(shot)}{worst}{more}"


def page_title(shot: Snapshot) -> str:
    """Return the text for the tab: the state, then the name of the server."""
    return plain(f"{shot['ready']}/{shot['target']} ready – {shot['name']}")


def tiles(
    shot: Snapshot,
    slot_url: str,
    recent: Mapping[int, Recent] | None = None,
    served: Mapping[str, Any] | None = None,
) -> str:
    """Render the state of the server, the most important first.

    ``slot_url`` is the URL of slot 0's page. ``recent`` has the last minute and hour of each slot; ``served`` is what
    `requests_of_servers` returns.
    """
    findings = assess(shot)
    recent, worst = recent or {}, worst_of(findings)
    place = Place.of(shot, slot_url)
    mold = shot["mold"]
    mold_html = mold_tile(mold, place) if mold is not None else ""
    mold_first = mold is not None and mold["state"] in ("unfit", "back_off", "no_room", "loading")
    return (
        f'<div class="wg-headline wg-{worst}" data-wg-events="{shot["events"]}" data-wg-worst="{worst}" '
        f'data-wg-say="{escape(summary(shot))}" data-wg-title="{escape(page_title(shot))}">{_hero(shot)}</div>'
        f"{_findings(grouped(findings), place)}{numbers_of_server(shot, recent)}{mold_html if mold_first else ''}"
        f"{_slots(shot, findings, recent, place)}{'' if mold_first else mold_html}"
        f"{oldest_requests(served, slot_url) if served else ''}"
        '<p class="wg-old" role="status">This state is more than 40 seconds old. <a href="?">Load the page again.</a></p>'
    )


def _hero(shot: Snapshot) -> str:
    arbiter = shot["arbiter"]
    facts = [generation(shot), phase(shot)]
    if shot["release"]:
        facts.append(f"release <bdi>{escape(plain(shot['release']))}</bdi>")
    facts.append(f"up {span(shot['at'] - arbiter['started_at'])}")
    where = f"{shot['worker_class']} at {', '.join(shot['bind'])}; arbiter pid {arbiter['pid']}"
    return (
        f'<p class="wg-count"><strong>{shot["ready"]} of {shot["target"]}</strong> ready</p>'
        f'<p class="wg-name"><bdi>{escape(plain(shot["name"]))}</bdi> on <bdi>{escape(plain(shot["host"]))}</bdi>: {", ".join(facts)}'
        f' <span class="wg-quiet wg-line">{escape(plain(where))}</span></p>'
    )


def _findings(groups: Sequence[Group], place: Place) -> str:
    shown = "".join(_finding(group, place) for group in groups[:MOST_FINDINGS])
    rest = groups[MOST_FINDINGS:]
    if rest:
        others = "".join(_finding(group, place) for group in rest)
        shown += (
            f'<li><details id="wg-more-findings"><summary id="wg-more-findings-summary">{len(rest)} more</summary>'
            f'<ul class="wg-findings">{others}</ul></details></li>'
        )
    return f'<ul class="wg-findings" aria-label="Findings">{shown}</ul>' if groups else ""


def _finding(group: Group, place: Place) -> str:
    text = escape(plain(group.text))
    if group.slots and place.slot_url:
        number = group.slots[0]
        text = f'<a id="wg-finding-{group.code}-{number}" href="{place.address(number)}">{text}</a>'
    return f'<li class="wg-{group.severity}"><strong>{group.severity}</strong> {text}{remedy_html(group.remedy)}</li>'


def remedy_html(remedy: str) -> str:
    """Render what to do about a finding."""
    return f' <span class="wg-remedy">{as_html(remedy)}</span>' if remedy else ""


def numbers_of_server(shot: Snapshot, recent: Mapping[int, Recent]) -> str:
    """Render the numbers of the whole server: the last minute's, and what is in hand now."""
    requests, errors = (
        sum(getattr(one, field) for one in recent.values()) for field in ("requests", "errors")
    )
    seconds = max((one.seconds for one in recent.values()), default=0)
    share = f"{errors / requests:.1%} of them" if requests else ""
    in_hand = sum(slot["in_flight"] for slot in shot["slots"])
    oldest = max(
        (slot["oldest_request"]["age"] for slot in shot["slots"] if slot["oldest_request"]), default=None
    )
    latency, queue = shot["latency"], shot["queue"]
    items = [
        (
            "queue",
            _queue(shot),
            f"p95 {duration(queue['p95'])}" if queue else "",
        ),
        ("in hand", str(in_hand), f"oldest {_age(oldest)}" if oldest is not None else ""),
        ("requests", per_second(requests, seconds), _busy(shot)),
        ("5xx", f"{errors}", share),
        (
            "p50, p95",
            f"{duration(latency['p50'])}, {duration(latency['p95'])}" if latency else "–",
            f"p99 {duration(latency['p99'])}" if latency else "no request",
        ),
        ("memory", *_memory(shot)),
    ]
    lags = [slot["loop_lag"] for slot in shot["slots"] if slot["loop_lag"] is not None]
    if lags:
        items.append(("event loop", duration(max(lags)), "late at most"))
    if shot["shed"]:
        items.append(("not served", str(shot["shed"]), "waited longer than queue-timeout"))
    bad = [name for name, count in (("5xx", errors), ("not served", shot["shed"])) if count]
    shown = "".join(
        f'<div class="{"wg-bad" if name in bad else "wg-number"}"><dt>{name}</dt><dd><b>{value}</b> <span class="wg-quiet">{more}</span></dd></div>'
        for name, value, more in items
    )
    return f'<dl class="wg-numbers" aria-label="The last minute">{shown}</dl>'


def _queue(shot: Snapshot) -> str:
    """Say how many requests wait: in the kernel for a worker, and in workers for a thread."""
    in_workers = sum(slot["waiting"] for slot in shot["slots"])
    if shot["backlog"] is None and not in_workers:
        return "–"
    return f"{(shot['backlog'] or 0) + in_workers} waiting"


def _busy(shot: Snapshot) -> str:
    return f"{shot['utilisation']:.0%} busy" if shot["utilisation"] is not None else ""


def _memory(shot: Snapshot) -> tuple[str, str]:
    """Return the memory of the workers, and what is known of it: of a forked worker only the private memory is counted."""
    sizes = [slot["rss_bytes"] for slot in shot["slots"] if slot["rss_bytes"]]
    mold, limits = shot["mold"], shot["limits"]
    parts = []
    if mold is not None and any(slot["mold"] for slot in shot["slots"]):
        parts.append(f"private; {in_megabytes(mold['rss_bytes'])} in the mold, shared")
    if limits["memory_bytes"]:
        parts.append(
            f"{in_megabytes(limits['memory_used_bytes'])} of {in_megabytes(limits['memory_bytes'])} used"
        )
    return in_megabytes(sum(sizes)), "; ".join(parts)


def _slots(shot: Snapshot, findings: Sequence[Finding], recent: Mapping[int, Recent], place: Place) -> str:
    """Render the slots that are in trouble, then the others."""
    found: dict[int, list[Finding]] = {}
    for finding in findings:
        if finding.slot is not None and finding.severity != "notice":
            found.setdefault(finding.slot, []).append(finding)
    many = len(shot["slots"]) > MANY
    ill = [
        slot
        for slot in shot["slots"]
        if slot["slot"] in found or slot["state"] != "ready" or slot["failures"]
    ]
    well = [slot for slot in shot["slots"] if slot not in ill]

    def draw(slots: Sequence[Mapping[str, Any]], first: Tile, rest: Tile) -> str:
        return "".join(
            (first if index < MOST_LARGE else rest)(
                slot, recent.get(slot["slot"], NOTHING), place, found.get(slot["slot"], ())
            )
            for index, slot in enumerate(slots)
        )

    kind = " wg-many" if many else ""
    sections = ""
    if ill:
        which = numbers([slot["slot"] for slot in ill])
        heading = f"Slot {which} needs attention" if len(ill) == 1 else f"Slots {which} need attention"
        shown = draw(ill[:MOST_LARGE], brief if many else large, small)
        rest = draw(ill[MOST_LARGE:], small, small)
        more = f'<ol class="wg-tiles wg-many">{rest}</ol>' if rest else ""
        sections = (
            f'<section aria-label="Slots in trouble"><h2>{heading}</h2>'
            f'<ol class="wg-tiles {"wg-briefs" if many else "wg-ill"}">{shown}</ol>{more}</section>'
        )
    if well:
        tile = small if many else middle
        heading = f"<h2>The other {len(well)}: ready</h2>" if ill else ""
        sections += f'<section aria-label="Slots that are ready">{heading}<ol class="wg-tiles{kind}">{draw(well, tile, tile)}</ol></section>'
    return sections


def oldest_requests(served: Mapping[str, Any], slot_url: str) -> str:
    """Render the oldest requests of the fleet; "" if each has just begun. ``served``: as of `requests_of_servers`."""
    slow = [request for request in served["requests"] if request["age"] >= SLOW_ENOUGH][:OLDEST]
    if not slow:
        return ""
    rows = "".join(_request(request, slot_url) for request in slow)
    return f'<section aria-label="Oldest requests"><h2>Oldest requests</h2><ul class="wg-requests">{rows}</ul></section>'


def requests_of_slot(served: Mapping[str, Any], number: int) -> str:
    """Render the requests that the workers of a slot serve; "" if there is none."""
    rows = "".join(_request(request, "") for request in served["requests"] if request["slot"] == number)
    return f'<ul class="wg-requests">{rows}</ul>' if rows else ""


def memory_of_views(found: Mapping[str, Any]) -> str:
    """Render the views that have kept the most memory, and those of which one request added the most; "" if none has."""
    lists = []
    for by, text in (("growth", "Most kept"), ("jump", "Most added by one request")):
        views = [view for view in by_growth(found["views"], by) if view[MEMORY_ORDERS[by]] >= MEGABYTE]
        rows = "".join(
            f"<li><strong>{in_megabytes(view[MEMORY_ORDERS[by]], sign='+')}</strong> {escape(view['view'])}</li>"
            for view in views[:MOST_VIEWS]
        )
        lists.append(f'<h3>{text}</h3><ol class="wg-requests">{rows}</ol>' if rows else "")
    return "".join(lists)


def _request(request: Mapping[str, Any], slot_url: str) -> str:
    number = request["slot"]
    where = f', <a href="{Place(0.0, slot_url).address(number)}">slot {number}</a>' if slot_url else ""
    view = f", {escape(request['view'])}" if request["view"] else ""
    return f"<li><strong>{_age(request['age'])}</strong> {escape(request['method'])} {escape(request['path'])}{view}{where}</li>"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def pool_tiles(shot: Snapshot) -> str:
    """Render the state of a Celery pool. Its slots have no pages of their own."""
    findings = assess(shot)
    place = Place.of(shot, "", labels=TASKS)
    mold = mold_tile(shot["mold"], place) if shot["mold"] is not None else ""
    return (
        f'<section class="wg-pool"><h2>Celery: <bdi>{escape(plain(shot["name"]))}</bdi></h2>'
        f'<div class="wg-headline wg-{worst_of(findings)}">{_hero(shot)}</div>'
        f"{_findings(grouped(findings), place)}{_slots(shot, findings, {}, place)}{mold}</section>"
    )


def event_list(events: Iterable[Mapping[str, Any]]) -> str:
    """Render events as sentences. A click on one shows its raw form."""
    return "".join(_event(event) for event in events)


def _event(event: Mapping[str, Any]) -> str:
    at = utc(event.get("at", 0))
    name = f"wg-event-{int(event.get('number', 0))}"
    return (
        f'<li><details id="{name}"><summary id="{name}-summary"><time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%H:%M:%S}</time> '
        f"{escape(sentence(event))}</summary><code>{escape(event_line(event))}</code></details></li>"
    )
