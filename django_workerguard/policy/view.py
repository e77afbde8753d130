"""The fleet as the arbiter knows it. Pure values; times are in seconds that the arbiter was awake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

from django_workerguard.config.options import GuardOptions
from django_workerguard.policy.failure import Failure
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.values import value_class


class State(Enum):
    """Where a worker is in its life."""

    SPAWNING = "spawning"  # a mold was asked for it; its pid is not known yet
    LOADING = "loading"
    LOADED = "loaded"  # waits to be admitted
    READY = "ready"
    UNLOADED = "unloaded"  # could not load and stays (need-app=off)
    FAILED = "failed"  # could not load and is leaving
    UNFIT = "unfit"  # a mold that has loaded, and from which no worker can be forked
    RETIRING = "retiring"


SERVING_OR_COMING = frozenset({State.SPAWNING, State.LOADING, State.LOADED, State.READY, State.UNLOADED})


@value_class(kw_only=True)
class Policy:
    """The options that the plan depends on. Durations are in seconds; 0 switches a limit off."""

    load: str = "lazy"
    need_app: str = "worker"
    load_retries: int = 3
    load_retry_delay: float = 0.5
    load_retry_max_delay: float = 30.0
    load_timeout: float = 60.0
    load_concurrency: int = 1
    min_loaded: int = 1
    stand_in: bool = True
    stand_in_after: float = 5.0
    give_up_after: float = 0.0
    worker_reload_mercy: float = 60.0
    timeout: float = 30.0  # gunicorn's, for requests
    surge: int = 1
    away: int = 1  # if surge is 0: the number of workers that may be missing at once
    drain_delay: float = 0.0
    max_requests: int = 0
    max_requests_delta: int = 0
    max_requests_jitter: int = 0  # gunicorn's
    max_worker_lifetime: float = 0.0
    max_worker_lifetime_delta: float = 0.0
    min_worker_lifetime: float = 10.0
    reload_on_rss: int = 0  # bytes
    evil_reload_on_rss: int = 0  # bytes
    reload_on_memory_error: bool = True
    outlier: str = "eject"
    outlier_latency: str = "report"
    outlier_min_requests: int = 50
    auto_workers: bool = False  # the number of workers follows CPUs and memory
    memory_margin: int = 0  # bytes that must stay free beside a load; 0: no load waits for memory
    threads: int = 0  # requests that a worker can serve at once; 0: as many as come
    accepts_ahead: bool = (
        False  # workers accept connections that they have no thread for yet, so no backlog is seen
    )
    request_timeout: float = 0.0
    request_timeout_action: str = "replace"
    answers: bool = True  # clients wait for an answer, which is 503 while no worker is ready; tasks only wait
    never_give_up: bool = False  # a development server with the reloader
    seed: float = 0.0  # a fraction of the server's own, from which its jitter is derived

    @classmethod
    def of(cls, options: GuardOptions, **differences: Any) -> Policy:
        """Return the policy of a server's options: each option of the same name, but for the differences."""
        names = {own.name for own in fields(cls)} & {option.name for option in fields(options)}
        return cls(**{name: getattr(options, name) for name in names} | differences)


@value_class
class Counts:
    """The counters of a worker at one moment."""

    at: float
    requests: int
    errors: int


@value_class
class Durations:
    """How many requests of a worker took how long, at one moment: the counts of each bucket."""

    at: float
    counts: tuple[int, ...]


@value_class(kw_only=True)
class Worker:
    """One process that loads or serves the application; a mold is one too, in slot 0."""

    seat: int
    slot: int
    pid: int
    generation: int
    ordinal: int  # counts the spawns of this arbiter
    spawned: float
    load_timeout: float
    mold: int | None = None  # the seat of the mold that it is forked from; None: it loads by itself
    state: State = State.LOADING
    since: float = 0.0
    ready_at: float | None = None
    beat: int = 0
    beat_seen: float = 0.0  # when the beat was last seen to change
    admitted: bool = False
    on_duty: bool = False  # what an unloaded worker does just now
    duty_wanted: bool = False
    duty_since: float = 0.0
    asked_to_leave: float | None = None
    reason: Reason | None = None  # why it was asked to leave, aborted or killed
    quick: bool = False
    makes_room: bool = False  # it leaves before its successor is started
    aborted: float | None = None
    killed: float | None = None  # when SIGKILL was sent last
    not_ended: bool = False  # the kernel does not end it: it keeps its seat, and its slot counts as empty
    requests: int = 0
    errors: int = 0  # answers of 5xx
    memory_errors: int = 0  # requests that ended in MemoryError
    in_flight: int = 0  # requests in hand
    overdue: tuple[str, ...] = ()  # method and path of each that has run too long, the oldest first
    waiting: int = 0  # requests that it has accepted and has no thread for yet
    long: int = 0  # requests that have run for longer than gunicorn's timeout
    stalled: float = (
        0.0  # seconds for which calls have waited for an executor of the event loop, and none has begun
    )
    rss: int = 0  # bytes, as last measured
    rss_at_first: int = 0  # bytes, the first measure when it was ready
    rss_over: int = 0  # measures in a row at or above reload-on-rss
    marks: tuple[Counts, ...] = ()  # of the last minute, oldest first
    durations: tuple[Durations, ...] = ()  # the same
    weighed: bool = False  # what its load needed is known

    @property
    def is_mold(self) -> bool:
        return self.slot == 0

    def having(self, **changes: Any) -> Worker:
        """Return a copy with other values: `dataclasses.replace` in a tenth of its time, for what each tick changes."""
        copy = object.__new__(Worker)
        copy.__dict__.update(self.__dict__, **changes)
        return copy


@value_class(kw_only=True)
class Record:
    """What is remembered of a slot across its processes."""

    slot: int
    failures: int = 0  # failed loads in a row
    old_failures: int = 0  # of these, those of workers of an older generation
    strikes: int = 0  # failed loads, failed forks and early deaths in a row
    timeouts: int = 0  # loads in a row that timed out
    next_try: float = 0.0
    last_spawn: int = 0  # an ordinal
    wanted_out: Reason | None = None  # why the incumbent is to be replaced
    no_memory: int = 0  # loads in a row that failed for want of memory
    evil_kills: int = 0  # kills in a row by evil-reload-on-rss, each right after the load
    not_spawned: int = 0  # processes in a row that could not be started
    not_forked: int = 0  # of these, the forks that a mold could not make although it had memory
    superseded_after: float = 0.0  # seconds of the last load that a reload took away; 0 once a load has ended
    squeezed: int = 0  # processes in a row that had to wait for memory before they were started
    recycled: tuple[tuple[Rule, float], ...] = ()  # the last ones since a reload: by which rule, and when

    @property
    def evil_suspended(self) -> bool:
        """Say whether evil-reload-on-rss would only kill one fresh worker after the other here."""
        return self.evil_kills >= 2


class Waiting(NamedTuple):
    """A slot that waits for memory: bytes that its process needs with the margin, bytes that are left for it."""

    needed: int
    left: int
    next_try: float  # when it is tried even so


@value_class(kw_only=True)
class StandIn:
    """The parked process that answers 503 while no worker can serve."""

    seat: int | None = None
    pid: int = 0
    on_duty: bool = False
    duty_wanted: bool = False
    duty_since: float = 0.0
    killed: float | None = None  # when SIGKILL was sent last
    not_ended: int | None = (
        None  # the seat of the one before, which was killed and which the kernel does not end
    )
    next_try: float = 0.0
    strikes: int = 0


@value_class(kw_only=True)
class Stop:
    """That the server was asked to stop, and how."""

    at: float
    quick: bool = False
    exit_code: int = 0
    reason: Reason | None = None


class Retry(Enum):
    """How often a refused reload is tried again."""

    ALWAYS = "always"  # its settings could not be read, by a process of its own
    SEVERAL = "several"  # its configuration cannot be used, and each try may leave something in the arbiter
    NEVER = "never"  # it changes what only a restart can change


@value_class(kw_only=True)
class Refusal:
    """That the last reload was refused: its settings or its configuration could not be used."""

    reason: str
    at: float
    strikes: int  # refused reloads in a row
    retry: Retry
    next_try: float | None  # None: a reload is going on, or none is tried


@value_class(kw_only=True)
class Fleet:
    """Everything that the plan depends on."""

    target: int
    generation: int = 1
    spawns: int = 0
    workers: Mapping[int, Worker] = field(default_factory=dict)  # by seat
    records: Mapping[int, Record] = field(default_factory=dict)  # by slot
    stand_in: StandIn = StandIn()
    molds: Mapping[int, Worker] = field(default_factory=dict)  # by seat
    mold_record: Record = Record(slot=0)  # of the newest generation's molds
    unfit: bool = False  # no worker can be forked from the newest generation's mold
    ever_ready: bool = False
    served: int = 0  # the newest generation of which a worker has been ready
    nobody_ready_since: float | None = 0.0
    load_failed: bool = False  # and no worker spawned after it has become ready
    last_failure: Failure | None = None  # of the last load that failed, until one succeeds
    failed_ordinal: int = 0  # the spawns at the last failed load
    canary_strikes: int = 0  # failed loads of this generation's successors in a row
    canary_next_try: float = 0.0
    reloading: bool = False  # until every worker is of the newest generation
    next_target: int | None = None  # from when the new generation has proved itself
    scaled: bool = False  # by hand, since somebody asked for a reload: its configuration does not undo that
    refusal: Refusal | None = None  # until a reload begins a generation
    last_evil: float | None = None  # when evil-reload-on-rss killed last
    outliers: Mapping[int, Reason] = field(
        default_factory=dict
    )  # by seat: the numbers, as of the last measure
    slow: Mapping[int, Reason] = field(
        default_factory=dict
    )  # by seat: the numbers of workers that are slower than their peers
    backlog: int | None = 0  # connections that wait to be accepted, as of the last measure; None: unknown
    free: int | None = None  # bytes of memory that are left; None: unknown
    pressure: float | None = None  # percent of the time in which a process waited for memory
    # what the last loads, forks and molds needed, in bytes, by kind: with the generation that was measured
    sizes: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    waiting: Mapping[int, Waiting] = field(default_factory=dict)  # by slot, 0 for the mold
    listening: bool = True
    stop: Stop | None = None

    def record(self, slot: int) -> Record:
        return self.records.get(slot) or Record(slot=slot)

    def process(self, seat: int) -> Worker | None:
        """The worker or the mold in a seat."""
        return self.workers.get(seat) or self.molds.get(seat)

    @property
    def seats(self) -> frozenset[int | None]:
        """The seats of all processes; None stands for a stand-in that there is not."""
        return frozenset((*self.workers, *self.molds, self.stand_in.seat, self.stand_in.not_ended))

    @cached_property
    def _by_slot(self) -> Mapping[int, list[Worker]]:
        by_slot: dict[int, list[Worker]] = {}
        for worker in sorted(self.workers.values(), key=lambda w: w.ordinal):
            if worker.state in SERVING_OR_COMING:
                by_slot.setdefault(worker.slot, []).append(worker)
        return by_slot

    @cached_property
    def _all_in_slots(self) -> Mapping[int, list[Worker]]:
        by_slot: dict[int, list[Worker]] = {}
        for worker in self.workers.values():
            by_slot.setdefault(worker.slot, []).append(worker)
        return by_slot

    def all_in_slot(self, slot: int) -> list[Worker]:
        """Return every process of the slot, also one that fails or leaves."""
        return self._all_in_slots.get(slot, [])

    def in_slot(self, slot: int) -> list[Worker]:
        """The slot's processes that serve or are coming, oldest first."""
        return self._by_slot.get(slot, [])

    def incumbent(self, slot: int) -> Worker | None:
        workers = self.in_slot(slot)
        return workers[0] if workers else None

    def successor(self, slot: int) -> Worker | None:
        workers = self.in_slot(slot)
        return workers[1] if len(workers) > 1 else None

    @cached_property
    def _by_state(self) -> Mapping[State, list[Worker]]:
        by_state: dict[State, list[Worker]] = {}
        for worker in self.workers.values():
            by_state.setdefault(worker.state, []).append(worker)
        return by_state

    def of(self, *states: State) -> list[Worker]:
        """The workers in any of these states."""
        return [worker for state in states for worker in self._by_state.get(state, ())]

    @cached_property
    def forks_since(self) -> Mapping[int, float]:
        """Since when each mold has been asked for a worker that is not there yet, by the mold's seat."""
        since: dict[int, float] = {}
        for worker in self.of(State.SPAWNING):
            if worker.mold is not None:
                since[worker.mold] = min(worker.spawned, since.get(worker.mold, worker.spawned))
        return since

    def due(self, slot: int) -> float:
        """When the slot may be tried again: its own back-off, and a reload's while an old worker serves on. 0: the mold's.

        A slot that waits for memory is tried then even so.
        """
        waiting = self.waiting.get(slot)
        if waiting is not None:
            return waiting.next_try
        if not slot:
            return self.mold_record.next_try
        own = self.record(slot).next_try
        incumbent = self.incumbent(slot)
        behind = incumbent is not None and incumbent.generation < self.generation
        return max(own, self.canary_next_try) if behind else own

    @cached_property
    def no_memory(self) -> bool:
        """Say whether the last load of any slot, or of the mold, failed because there was not enough memory."""
        return any(record.no_memory for record in (self.mold_record, *self.records.values()))

    @cached_property
    def proven(self) -> bool:
        """Say whether a worker of the newest generation has become ready."""
        return any(w.generation == self.generation for w in self.of(State.READY))

    def is_old_code(self, process: Worker) -> bool:
        """Say whether a process is of an older generation, and one of which a worker has been ready."""
        return process.generation < self.generation and process.generation <= self.served

    @cached_property
    def old_code_serves(self) -> bool:
        """Say whether the code that the newest generation is to replace has a ready worker, or a mold that can fork one."""
        there = (*self.workers.values(), *self.molds.values())
        return any(one.state is State.READY and self.is_old_code(one) for one in there)

    @property
    def frozen(self) -> bool:
        """Say whether the newest generation could not be loaded yet, and the one before serves on."""
        return bool(self.canary_strikes) and not self.proven

    @property
    def is_rolled(self) -> bool:
        """Say whether every slot has a ready worker of the newest generation, and no worker is loading or leaving."""
        workers = [worker for worker in self.workers.values() if not worker.not_ended]
        if self.next_target is not None or len(workers) != self.target:
            return False
        return all(w.state is State.READY and w.generation == self.generation for w in workers)

    @cached_property
    def ready(self) -> int:
        """How many slots have a ready worker."""
        return len({w.slot for w in self.of(State.READY) if w.aborted is None})
