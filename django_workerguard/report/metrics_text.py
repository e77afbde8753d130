"""The metrics in the two text formats that Prometheus reads. Pure.

The text is the same as prometheus_client's, for the processes that do without that library: the monitor and the command
``workerguard metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from django_workerguard.report.metrics import Family, families, families_of_pools

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
Labels = Mapping[str, str]


def metrics_text(
    server: Mapping[str, Any] | None, pools: Iterable[Mapping[str, Any]], *, openmetrics: bool = False
) -> str:
    """Return the metrics of a server, from its snapshot, and of its project's Celery pools."""
    groups: list[list[tuple[str, Family]]] = []
    if server is not None:
        groups += [[("", family)] for family in families(server)]
    groups += [list(group) for _, group in groupby(families_of_pools(pools), key=lambda pair: pair[1].name)]
    lines = [line for group in groups for line in _lines(group, openmetrics=openmetrics)]
    return "\n".join([*lines, *(["# EOF"] if openmetrics else []), ""])


def accepts_openmetrics(accept: str) -> bool:
    """Return whether the header ``Accept`` of a request names the format OpenMetrics."""
    return any(part.split(";")[0].strip() == "application/openmetrics-text" for part in accept.split(","))


def _lines(group: Sequence[tuple[str, Family]], *, openmetrics: bool) -> Iterator[str]:
    """Yield the lines of one metric: of the server's family, or of one family for each pool."""
    family = group[0][1]
    name, kind = family.name, family.kind
    if openmetrics:
        name = name.removesuffix("_info") if kind == "info" else name
    elif kind == "info":
        kind = "gauge"
    elif kind == "counter":
        name += "_total"
    text = _escaped(family.help) if openmetrics else family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for pool, member in group:
        yield from _samples(member, {"pool": pool} if pool else {})


def _samples(family: Family, pool: Labels) -> Iterator[str]:
    if family.kind == "histogram":
        for values, samples in groupby(family.samples, key=lambda sample: sample[0][:-1]):
            labels, count = {**pool, **dict(zip(family.labels, values, strict=True))}, 0.0
            # all but the bound is the same for every bucket, and there are many
            before = _pairs({label: value for label, value in labels.items() if label < "le"})
            after = _pairs({label: value for label, value in labels.items() if label > "le"})
            head = f'{family.name}_bucket{{{f"{before}," if before else ""}le="'
            tail = f'"{f",{after}" if after else ""}}} '
            for bounded, count in samples:
                yield f"{head}{bounded[-1]}{tail}{_number(count)}"
            yield _sample(f"{family.name}_count", labels, count)
            yield _sample(f"{family.name}_sum", labels, family.totals[values])
        return
    (name,) = family.series
    for values, number in family.samples:
        yield _sample(name, {**pool, **dict(zip(family.labels, values, strict=True))}, number)


def _sample(name: str, labels: Labels, number: float) -> str:
    return f"{name}{{{_pairs(labels)}}} {_number(number)}" if labels else f"{name} {_number(number)}"


def _pairs(labels: Labels) -> str:
    return ",".join([f'{label}="{_escaped(value)}"' for label, value in sorted(labels.items())])


def _escaped(text: str) -> str:
    return text if text.isalnum() else text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(number: float) -> str:
    """Return a number as Go writes it, which uses exponents sooner than Python."""
    if type(number) is int and 0 <= number < 1_000_000:
        return f"{number}.0"
    text = repr(float(number))
    dot = text.find(".")
    if number > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    return text
