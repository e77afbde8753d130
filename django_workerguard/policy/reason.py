"""Why a worker or the server ends: a rule for programs, a text for people. Pure."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from django_workerguard.values import value_class


class Rule(StrEnum):
    """The rules by which workers, and the server, end. The values are labels of metrics and the journal's ``rule``."""

    # a worker is replaced
    RELOAD = "reload"
    BY_HAND = "by-hand"
    MAX_REQUESTS = "max-requests"
    MAX_WORKER_LIFETIME = "max-worker-lifetime"
    RELOAD_ON_RSS = "reload-on-rss"
    EVIL_RELOAD_ON_RSS = "evil-reload-on-rss"
    RELOAD_ON_MEMORY_ERROR = "reload-on-memory-error"
    OUTLIER = "outlier"
    OUTLIER_LATENCY = "outlier-latency"
    REQUEST_TIMEOUT = "request-timeout"
    REPLACED = "replaced"  # its successor is ready, whatever it was started for
    # a child of Celery's pool is replaced, by Celery's own rules
    MAX_TASKS_PER_CHILD = "max-tasks-per-child"
    TIME_LIMIT = "time-limit"
    REVOKED = "revoked"
    # a worker leaves
    STOP = "stop"
    SCALE = "scale"
    SUPERSEDED = "superseded"
    LEFT = "left"  # no one asked it to
    # a mold leaves
    NEWER_MOLD = "newer-mold"
    UNFIT = "unfit"
    NOT_NEEDED = "not-needed"
    # a worker is ended, because it does not do what it has to
    LOAD_TIMEOUT = "load-timeout"
    FORK_TIMEOUT = "fork-timeout"  # a mold that does not fork
    TIMEOUT = "timeout"
    WORKER_RELOAD_MERCY = "worker-reload-mercy"
    FAILED_LOAD = "failed-load"
    DUTY = "duty"
    # the server ends
    NEED_APP = "need-app"
    GIVE_UP_AFTER = "give-up-after"


# the labels of the metric that counts replacements
RECYCLES = (
    Rule.RELOAD,
    Rule.BY_HAND,
    Rule.MAX_REQUESTS,
    Rule.MAX_WORKER_LIFETIME,
    Rule.RELOAD_ON_RSS,
    Rule.EVIL_RELOAD_ON_RSS,
    Rule.RELOAD_ON_MEMORY_ERROR,
    Rule.OUTLIER,
    Rule.OUTLIER_LATENCY,
    Rule.REQUEST_TIMEOUT,
)
# of these, the ones that somebody asks for
ASKED_FOR = (Rule.RELOAD, Rule.BY_HAND)
# and the ones whose cause is the worker's memory
FOR_MEMORY = (Rule.RELOAD_ON_RSS, Rule.EVIL_RELOAD_ON_RSS, Rule.RELOAD_ON_MEMORY_ERROR)
# the rules that leave a slot without a replacement
DEPARTURES = (Rule.STOP, Rule.SCALE, Rule.SUPERSEDED)
# the rules that end a ready worker with a signal
KILLS = (Rule.TIMEOUT, Rule.REQUEST_TIMEOUT, Rule.WORKER_RELOAD_MERCY, Rule.EVIL_RELOAD_ON_RSS)


class Killer(StrEnum):
    """Which side sent a process SIGKILL: the journal's ``by``."""

    ARBITER = "arbiter"
    OUT_OF_MEMORY = "out-of-memory"  # the kernel's own counter says so
    UNKNOWN = "unknown"

    @property
    def text(self) -> str:
        """Return it for people; "" for the arbiter, whose reason says more."""
        match self:
            case Killer.OUT_OF_MEMORY:
                return "by the kernel: out of memory"
            case Killer.UNKNOWN:
                return "sender unknown, no OOM kill was recorded"
            case _:
                return ""


@value_class
class Reason:
    """A rule, and a text with its numbers. Programs compare the rule; nothing parses the text."""

    rule: Rule
    text: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}" if self.text else self.rule.value

    def adding(self, text: str) -> Reason:
        """Return the same reason with more text."""
        return replace(self, text="; ".join(filter(None, (self.text, text))))
