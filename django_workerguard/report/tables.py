"""Tables for a terminal: a snapshot, events, the explanation of a slot. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from django_workerguard.config.text import duration, in_megabytes, plain
from django_workerguard.report.findings import OF_MOLD, Finding, assess
from django_workerguard.report.groups import Group, grouped
from django_workerguard.report.remedies import as_text

COLUMNS = (
    "SLOT",
    "STATE",
    "PID",
    "GEN",
    "FOR",
    "REQUESTS",
    "5XX",
    "IN FLIGHT",
    "MEMORY",
    "LOAD",
    "NEXT TRY",
    "RELEASE",
)

# the names of these columns for a pool of tasks
TASK_COLUMNS = {"REQUESTS": "TASKS", "5XX": "FAILED", "IN FLIGHT": "RUNNING"}


def columns(snapshot: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the table's columns, in the order of `row`."""
    return (
        tuple(TASK_COLUMNS.get(name, name) for name in COLUMNS) if snapshot["kind"] == "celery" else COLUMNS
    )


def generation(snapshot: Mapping[str, Any]) -> str:
    """Return the newest generation in words, and that it is frozen."""
    arbiter = snapshot["arbiter"]
    return f"generation {arbiter['generation']}{' frozen' if arbiter['frozen'] else ''}"


def phase(snapshot: Mapping[str, Any]) -> str:
    """Return what the server does, in a word or two."""
    return "answering 503" if snapshot["stand_in"] else str(snapshot["arbiter"]["phase"])


def headlines(snapshot: Mapping[str, Any]) -> tuple[str, ...]:
    """Return two lines: the server with its state, and its worker class with its addresses; a third if it has a mold."""
    arbiter = snapshot["arbiter"]
    server = (
        f"{snapshot['name']} on {snapshot['host']}: {snapshot['ready']} of {snapshot['target']} ready, "
        f"{generation(snapshot)}, {phase(snapshot)}; arbiter pid {arbiter['pid']}, up "
        f"{span(snapshot['at'] - arbiter['started_at'])}"
    )
    where = f"{snapshot['worker_class']} at {', '.join(snapshot['bind'])}{_last_minute(snapshot)}"
    lines = (server, where)
    return lines if snapshot["mold"] is None else (*lines, mold_line(snapshot["mold"], snapshot["at"]))


def _last_minute(snapshot: Mapping[str, Any]) -> str:
    parts = [quantiles(snapshot["latency"])] if snapshot["latency"] else []
    if snapshot["queue"]:
        parts.append(f"queue p95 {duration(snapshot['queue']['p95'])}")
    lags = [slot["loop_lag"] for slot in snapshot["slots"] if slot["loop_lag"] is not None]
    if lags:
        parts.append(f"event loop late by {duration(max(lags))}")
    if snapshot["utilisation"] is not None:
        parts.append(f"{snapshot['utilisation']:.0%} busy")
    return f"; last minute: {', '.join(parts)}" if parts else ""


def quantiles(latency: Mapping[str, float]) -> str:
    """Return the quantiles of the durations of requests in one line."""
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in latency.items())


def state_since(process: Mapping[str, Any], now: float) -> str:
    """Return the state of a slot or of the mold, and for how long it has been ready, or has not been."""
    state, age = str(process["state"]).replace("_", "-"), how_long(process, now)
    if not age:
        return state
    return f"{state} {age}" if state == "ready" else f"{state}, {age}"


def how_long(process: Mapping[str, Any], now: float) -> str:
    """Return for how long a slot or the mold has been ready, or has not been; "" if that is not known."""
    if not process["since"]:
        return ""
    return f"{'' if process['state'] == 'ready' else 'not ready '}for {span(now - process['since'])}"


def mold_line(mold: Mapping[str, Any], now: float) -> str:
    """Return the line about the mold."""
    parts = [f"mold: {state_since(mold, now)}"]
    if mold["pid"]:
        parts.append(f"pid {mold['pid']}, generation {mold['generation']}")
        forks = "1 fork" if mold["forks"] == 1 else f"{mold['forks']} forks"
        parts.append(f"{forks}, {in_megabytes(mold['rss_bytes'])}")
    if mold["next_try_in"]:
        parts.append(f"next load in {mold['next_try_in']:.1f} s")
    return ", ".join(parts)


def row(slot: Mapping[str, Any], now: float) -> tuple[str, ...]:
    """Return the cells of a slot, one for each of COLUMNS."""
    wait = slot["next_try_in"]
    pid = str(slot["pid"] or "-") + (f" → {slot['successor']}" if slot["successor"] else "")
    return (
        str(slot["slot"]),
        slot["state"].replace("_", "-") + (" (suspect)" if slot["suspect"] else ""),
        pid,
        str(slot["generation"]),
        span(now - slot["since"]) if slot["since"] else "-",
        str(slot["requests"]),
        str(slot["errors_5xx"]),
        str(slot["in_flight"]),
        in_megabytes(slot["rss_bytes"]) if slot["rss_bytes"] else "-",
        f"{slot['load_seconds']:.2f} s" if slot["load_seconds"] is not None else "-",
        f"{wait:.1f} s" if wait is not None else "-",
        slot["release"] or "-",
    )


REQUEST_COLUMNS = ("SLOT", "PID", "AGE", "METHOD", "PATH", "VIEW")


def request_row(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a request in hand, one for each of REQUEST_COLUMNS."""
    return (
        str(request["slot"]),
        str(request["pid"]),
        f"{request['age']:.1f} s" if request["age"] < 60 else span(request["age"]),
        request["method"],
        request["path"],
        request["view"] or "-",
    )


def requests_table(served: Mapping[str, Any]) -> list[str]:
    """Render ``workerguard requests``, line by line."""
    rows = [request_row(request) for request in served["requests"]]
    lines = aligned([REQUEST_COLUMNS, *rows]) if rows else ["No request is being served."]
    if served["not_listed"]:
        lines.append(f"and {served['not_listed']} more, which are not listed one by one")
    return [plain(line) for line in lines]


# what `workerguard memory` can list first, by the word of its option: the value to sort by
MEMORY_ORDERS = {"growth": "retained_bytes", "jump": "largest_bytes"}
MEMORY_COLUMNS = ("VIEW", "KEPT", "EACH", "LARGEST", "FIRST USE", "MEASURED")


def memory_row(view: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a view's memory, one for each of MEMORY_COLUMNS."""
    retained, measured = view["retained_bytes"], view["measured"]
    return (
        view["view"],
        in_megabytes(retained, digits=1, sign="+"),
        f"{retained / measured / 1024:+.1f} kB" if measured else "-",
        in_megabytes(view["largest_bytes"], digits=1, sign="+"),
        in_megabytes(view["first_use_bytes"], digits=1, sign="+"),
        str(measured),
    )


def by_growth(views: Iterable[Mapping[str, Any]], by: str = "growth") -> list[Mapping[str, Any]]:
    """Sort the views of `memory_of_servers`; ``by`` is one of MEMORY_ORDERS."""
    return sorted(views, key=lambda view: -view[MEMORY_ORDERS[by]])


def memory_table(found: Mapping[str, Any], *, by: str = "growth") -> list[str]:
    """Render ``workerguard memory``, line by line."""
    rows = [memory_row(view) for view in by_growth(found["views"], by)]
    lines = aligned([MEMORY_COLUMNS, *rows]) if rows else ["No request has been measured yet."]
    if found["not_alone"]:
        lines.append(f"{found['not_alone']} requests were not measured: others were in hand with them.")
    return [plain(line) for line in lines]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines, with their columns below each other."""
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell + " " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: a Chinese character takes two, a combining accent none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # imported late: no process of a server needs it

    return sum(0 if combining(one) else 2 if east_asian_width(one) in ("W", "F") else 1 for one in text)


def span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = max(0, int(seconds))
    for size, unit, smaller, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller:02}{small_unit}"
    return f"{whole}s"


def utc(at: Any) -> datetime:
    """Return Unix seconds as a date; 1970 for a value that is no date, as in a damaged journal."""
    try:
        return datetime.fromtimestamp(at, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def event_line(event: Mapping[str, Any]) -> str:
    """Render one event of the journal."""
    at = utc(event.get("at", 0)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = " ".join(
        f"{key}={_value(value)}"
        for key, value in event.items()
        if key not in ("at", "event", "number") and value not in (None, "")
    )
    return plain(f"{at} {event.get('event', '?')!s:<14} {fields}").replace("\n", " ")


def _value(value: Any) -> str:
    text = str(value)
    return repr(text) if " " in text else text


def explanation(
    snapshot: Mapping[str, Any], slot: Mapping[str, Any], events: Iterable[Mapping[str, Any]]
) -> str:
    """Render ``workerguard explain SLOT``: its state, its load, its last error, its latest events.

    With a mold it says how the mold is too, because the slot's next worker comes from there.
    """
    lines = [f"slot {slot['slot']}: {state_since(slot, snapshot['at'])}"]
    if slot["pid"]:
        lines[0] += f", pid {slot['pid']}, generation {slot['generation']}"
    if slot["mold"]:
        lines[0] += f", forked from the mold with pid {slot['mold']}"
    if snapshot["mold"] is not None:
        lines.append(mold_line(snapshot["mold"], snapshot["at"]))
    if slot["next_try_in"] is not None:
        after = f", after {slot['failures']} failed loads in a row" if slot["failures"] else ""
        lines.append(f"next try in {slot['next_try_in']:.1f} s{after}")
    for finding in assess(snapshot):
        if finding.slot == slot["slot"] or finding.code in OF_MOLD:
            lines += _with_remedy(finding)
    return _with_details(lines, slot, "load of its worker:", events, slot["slot"])


def explanation_of_server(snapshot: Mapping[str, Any]) -> str:
    """Render ``workerguard explain``: the state, and each finding with what to do."""
    lines = list(headlines(snapshot)[:1])
    groups = grouped(assess(snapshot))
    for group in groups:
        lines += _with_remedy(group)
    return plain("\n".join(lines if groups else [*lines, "  no findings"]))


def _with_remedy(finding: Finding | Group) -> Iterator[str]:
    yield f"  {finding.severity}: {finding.text}"
    if finding.remedy:
        yield f"    {as_text(finding.remedy)}"


def explanation_of_mold(snapshot: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> str:
    """Render ``workerguard explain 0``: the mold as `explanation` renders a slot."""
    mold = snapshot["mold"]
    lines = [mold_line(mold, snapshot["at"])]
    for finding in assess(snapshot):
        if finding.code in OF_MOLD:
            lines += _with_remedy(finding)
    return _with_details(lines, mold, "its load:", events, 0)


def _with_details(
    lines: Iterable[str],
    loaded: Mapping[str, Any],
    heading: str,
    events: Iterable[Mapping[str, Any]],
    slot: int,
) -> str:
    """Add the steps of a load, the last error, and the latest events of a slot or (slot 0) of the mold."""
    lines = [*lines]
    if loaded["load_steps"]:
        lines += ["", heading, *aligned([_step(step) for step in loaded["load_steps"]])]
    if loaded["step"]:
        lines.append(f"  now in step {loaded['step']}")
    if loaded["last_error"]:
        lines += ["", *_last_error(loaded["last_error"])]
    own = [event_line(event) for event in events if event.get("slot") == slot]
    if own:
        lines += ["", "latest events:", *own[-30:]]
    return plain("\n".join(lines))


def _step(step: Mapping[str, Any]) -> tuple[str, ...]:
    peak, kept = (in_megabytes(step[key], digits=1) for key in ("peak_bytes", "retained_bytes"))
    return (
        f"  {step['name']}",
        f"{step['seconds'] * 1000:.0f} ms",
        f"peak {peak}",
        f"kept {kept}",
    )


def _last_error(error: Mapping[str, Any]) -> list[str]:
    when = utc(error.get("at", 0)).isoformat(timespec="seconds").replace("+00:00", "Z")
    step = f" in step {error['step']}" if error.get("step") else ""
    steps = [step for step in error.get("steps") or () if isinstance(step, Mapping)]
    return [
        f"last error, {when}{step}: {error.get('type')}: {error.get('message')}",
        *(["steps that passed before the error:", *aligned([_step(one) for one in steps])] if steps else []),
        str(error.get("traceback") or ""),
    ]
