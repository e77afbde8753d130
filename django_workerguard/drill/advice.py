"""Advice for the site, from its configuration and what the drill has measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from django_workerguard.config.text import duration, in_megabytes
from django_workerguard.drill.configuration import Configuration
from django_workerguard.values import value_class

LEAST_FACTOR, MOST_FACTOR = 4, 60  # of load-timeout to the measured load
SHORTEST_TIMEOUT = 10  # seconds; below it a busy machine decides
SLOW_FIRST = 5  # times the median: a first answer that a warm-up request would have spared a visitor
SLOW_LEAST = 0.1  # seconds
MANY = 0.9  # of the memory
ARBITER = 40 << 20  # bytes, with the stand-in


@value_class(kw_only=True)
class Facts:
    """What the drill has measured. Sizes in bytes, durations in seconds; None: unknown."""

    target: int
    fits_mold: bool | None
    hazards: tuple[str, ...] = ()
    load_seconds: float | None = None  # the longest load
    worker_bytes: int = 0  # the largest worker; its own memory, if it is forked from a mold
    mold_bytes: int = 0
    memory_bytes: int = 0  # the limit of the cgroup, else the memory of the machine; 0: unknown
    free_bytes: int | None = None  # what may be used now, without the server of the drill
    paths: tuple[str, ...] = ()  # of the load, those that answered
    first_seconds: float | None = None  # the longest first answer of a path
    median_seconds: float | None = None


def advise(configuration: Configuration, facts: Facts) -> list[str]:
    """Return one paragraph for each subject."""
    return [
        *_load(configuration, facts),
        *_load_timeout(configuration, facts),
        *_workers(facts),
        *_memory_margin(configuration),
        *_need_app(configuration),
        *_warmup(configuration, facts),
    ]


def _load(configuration: Configuration, facts: Facts) -> Iterator[str]:
    load = configuration["load"].text
    if facts.fits_mold is None:
        yield "load=auto: unknown, because the check gave no verdict."
    elif not facts.fits_mold:
        hazards = "; ".join(facts.hazards) or "the check names no hazard"
        use = " Each worker loads by itself." if load != "lazy" else ""
        yield f"load=auto does not fit: no worker can be forked from the loaded application: {hazards}.{use}"
    elif load == "lazy":
        yield (
            "load=auto fits: workers can be forked from the loaded application. They would share its memory, and a "
            'replacement would load nothing. Set WORKERGUARD["LOAD"] = "auto".'
        )
    else:
        yield f"load={load} fits: workers are forked from the loaded application."


def _load_timeout(configuration: Configuration, facts: Facts) -> Iterator[str]:
    timeout, load = configuration.number("load-timeout"), facts.load_seconds
    if not load:
        return
    suggested = max(SHORTEST_TIMEOUT, round(load * 10))
    measured = f"The longest load took {duration(load)}"
    if not timeout:
        yield f"load-timeout is 0, so a load that hangs is never ended. {measured}; {suggested} s would do."
    elif timeout < LEAST_FACTOR * load:
        yield f"load-timeout is {timeout:g} s. {measured}, which is too near on a busy machine; set {suggested} s."
    elif timeout > max(MOST_FACTOR * load, SHORTEST_TIMEOUT):
        yield (
            f"load-timeout is {timeout:g} s. {measured}, so a load that hangs costs its slot longer than needed; "
            f"{suggested} s would do."
        )
    else:
        yield f"load-timeout is {timeout:g} s. {measured}, so it fits."


def _workers(facts: Facts) -> Iterator[str]:
    if facts.target == 1:
        yield "There is one worker: while it is replaced after a crash, nothing answers. Set workers to 2 or more."
    if not facts.memory_bytes or not facts.worker_bytes:
        return
    others = 2 * facts.mold_bytes + ARBITER  # a reload loads a second mold beside the first
    needed = (facts.target + 1) * facts.worker_bytes + others
    processes = "the arbiter, " + ("two molds during a reload, " if facts.mold_bytes else "")
    sizes = (
        f"{processes}{facts.target} workers and one more at a replacement need about {in_megabytes(needed)} before they "
        f"grow, and there are {in_megabytes(facts.memory_bytes)}"
    )
    most = max(1, int((facts.memory_bytes * MANY - others) / facts.worker_bytes) - 1)
    if needed > MANY * facts.memory_bytes:
        instead = "" if facts.mold_bytes else ", or set load=auto"
        yield f"workers={facts.target} is too many for the memory: {sizes}. At most {most} fit{instead}."
        return
    yield f"workers={facts.target} fits into the memory: {sizes}."
    if facts.free_bytes is not None and needed > facts.free_bytes:
        yield (
            f"Only {in_megabytes(facts.free_bytes)} of the memory are free: other processes use the rest. If none of them is "
            "the server that this one replaces, the workers do not fit beside them."
        )


def _memory_margin(configuration: Configuration) -> Iterator[str]:
    if not configuration.number("memory-margin"):
        yield (
            f"memory-margin is 0 (set in {configuration['memory-margin'].where}), so a load begins although the memory that "
            "is left cannot hold it, and the kernel kills a process. The default is 16 MB."
        )


def _need_app(configuration: Configuration) -> Iterator[str]:
    if configuration["need-app"].text == "server":
        yield (
            f"need-app=server (set in {configuration['need-app'].where}): the server ends when the loads of a slot have "
            "failed too often, although other workers serve. need-app=worker costs one slot."
        )


def _warmup(configuration: Configuration, facts: Facts) -> Iterator[str]:
    missing = [path for path in facts.paths if path not in configuration.words("warmup-path")]
    if not missing:
        if facts.paths:
            yield "warmup-path has every path of the drill."
        return
    listed = ", ".join(f'"{path}"' for path in missing)
    slow = ""
    first, median = facts.first_seconds, facts.median_seconds
    if first is not None and median is not None and first > max(SLOW_LEAST, SLOW_FIRST * median):
        slow = f" The first answer of a path took up to {duration(first)}, the median {duration(median)}."
    yield (
        f"warmup-path lacks {', '.join(missing)}: a worker is ready before it has answered there once.{slow} "
        f'Set WORKERGUARD["WARMUP_PATH"] = [{_all(configuration, listed)}].'
    )


def _all(configuration: Configuration, listed: str) -> str:
    present: Sequence[str] = [f'"{path}"' for path in configuration.words("warmup-path")]
    return ", ".join((*present, listed))
