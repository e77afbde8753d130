"""Every option of the guard, defined once: name, unit, default, help. Runs anywhere.

One rule gives an option its four spellings: ``--load-retries``,
``WORKERGUARD["LOAD_RETRIES"]``, ``WORKERGUARD_LOAD_RETRIES`` and, where uWSGI has it,
uWSGI's own ``load-retries``.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django_workerguard.config import units

NEED_APP = ("worker", "server", "off")
NEED_APP_SYNONYMS = {"true": "server", "1": "server", "yes": "server", "on": "server"} | dict.fromkeys(
    ("false", "0", "no"), "off"
)
NOTIFY = ("webhook", "email", "command")
WARMUP = ("urlconf", "templates", "lazy")
STEPS = (*WARMUP, "languages")


@dataclass(frozen=True)
class Option:
    """One option: its spellings, its default, its parser and its help."""

    field: str
    default: Any
    parse: Callable[[Any], Any]
    help: str
    metavar: str
    secret: bool

    @property
    def name(self) -> str:
        return self.field.replace("_", "-")

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    @property
    def key(self) -> str:
        return self.field.upper()

    @property
    def env(self) -> str:
        return f"WORKERGUARD_{self.key}"


def _option(
    default: Any, parse: Callable[[Any], Any], help: str, *, metavar: str = "VALUE", secret: bool = False
) -> Any:
    return field(
        default=default, metadata={"parse": parse, "help": help, "metavar": metavar, "secret": secret}
    )


def _warmup(raw: Any) -> tuple[str, ...]:
    steps = units.words(raw)
    for step in steps:
        if step not in STEPS:
            raise ValueError(f"{step!r} is not one of {', '.join(STEPS)}")
    return steps


def _paths(raw: Any) -> tuple[str, ...]:
    paths = units.words(raw)
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} does not begin with a slash")
    return paths


def _receivers(raw: Any) -> tuple[str, ...]:
    receivers = units.words(raw)
    if isinstance(raw, str) and raw.strip().startswith("command:"):  # its arguments may have commas
        if kinds := [kind for word in receivers[1:] if (kind := word.partition(":")[0]) in NOTIFY]:
            raise ValueError(
                f"a command takes the rest of the text, '{kinds[0]}:…' too: put it last, or write a list"
            )
        receivers = (raw.strip(),)
    for receiver in receivers:
        kind, _, target = receiver.partition(":")
        if kind not in NOTIFY or not target.strip():
            raise ValueError(f"{kind!r} is not one of {', '.join(f'{kind}:…' for kind in NOTIFY)}")
        if kind == "webhook" and not target.startswith(("http://", "https://")):
            raise ValueError("a webhook's URL begins with http:// or https://")
        if kind == "command":
            shlex.split(target)  # raises ValueError where a quotation does not end
    return receivers


def _release(raw: Any) -> str:
    spec = units.text(raw)
    if spec and not spec.startswith(("env:", "file:", "call:")):
        raise ValueError(f"{raw!r} is not of the form env:NAME, file:PATH or call:module:function")
    return spec


@dataclass(frozen=True, kw_only=True)
class GuardOptions:
    """The guard's options, parsed. Durations are in seconds."""

    app: str | None = _option(
        None,
        units.dotted,
        "The application to serve, module:callable, WSGI or ASGI; without it WSGI_APPLICATION "
        "(ASGI_APPLICATION on an ASGI worker class), else Django's own.",
        metavar="MODULE:CALLABLE",
    )
    need_app: str = _option(
        "worker",
        units.choice(NEED_APP, synonyms=NEED_APP_SYNONYMS),
        "What a worker that cannot load costs: 'worker' (it leaves and is tried again, the others serve on; "
        "exit 22 when every slot has used up its tries and none was ever ready), 'server' (or true: exit 22 "
        "when one slot has used up its tries), 'off' (or false: it stays unloaded, and answers 503 only while "
        "no worker is loaded). Mirrors uWSGI's need-app.",
        metavar="worker|server|off",
    )
    load_retries: int = _option(
        3, units.count(1), "Tries per slot to load before need-app acts.", metavar="N"
    )
    load_retry_delay: float = _option(
        0.5, units.seconds, "The first back-off after a failed load; it doubles.", metavar="SECONDS"
    )
    load_retry_max_delay: float = _option(30.0, units.seconds, "The longest back-off.", metavar="SECONDS")
    load_timeout: float = _option(
        60.0,
        units.seconds,
        "How long a load may take before it is ended with a stack dump; a retry after it gets twice, at most "
        "four times as long. 0: no limit.",
        metavar="SECONDS",
    )
    load_concurrency: int | None = _option(
        None,
        units.count(1),
        "How many workers load at once; by default the CPUs that the cgroup allows.",
        metavar="N",
    )
    warmup: tuple[str, ...] = _option(
        WARMUP,
        _warmup,
        "What the sentinel loads beyond the application: urlconf, templates, lazy (all else that Django "
        "imports on first use), languages (the catalogue and the formats of each language in LANGUAGES, not only "
        "LANGUAGE_CODE; off by default, because many catalogues take much memory).",
        metavar="STEP,…",
    )
    urlconf: tuple[str, ...] = _option(
        (),
        units.words,
        "URLconfs that are loaded besides ROOT_URLCONF, for a project in which a middleware or a host router chooses "
        "one per request. One that cannot be loaded fails the load, as ROOT_URLCONF does.",
        metavar="MODULE,…",
    )
    warmup_path: tuple[str, ...] = _option(
        (), _paths, "Paths requested through the application as part of the load.", metavar="PATH,…"
    )
    load_probe: tuple[str, ...] = _option(
        (),
        units.words,
        "Callables run as part of the load; an exception or False fails it.",
        metavar="MODULE:CALLABLE,…",
    )
    accept_left_behind: tuple[str, ...] = _option(
        (),
        units.words,
        "Threads and sockets that a load may leave open without a finding, as shell patterns of the step ('app', "
        "'warmup:*') or of what the finding names ('app:thread:poller*').",
        metavar="PATTERN,…",
    )
    min_loaded: int = _option(
        1, units.count(1), "The quorum: so many ready workers make the server ready.", metavar="N"
    )
    stand_in: bool = _option(
        True,
        units.switch,
        "Answer 503 with Retry-After from a stand-in process while no worker is loaded after a failed load.",
        metavar="on|off",
    )
    stand_in_after: float = _option(
        5.0,
        units.seconds,
        "How long nobody must have been ready before the stand-in answers.",
        metavar="SECONDS",
    )
    give_up_after: float = _option(
        0.0,
        units.seconds,
        "Exit 22 after nobody was ready for so long, so that an orchestrator can act. 0: never.",
        metavar="SECONDS",
    )
    health_path: str = _option(
        "/health/", units.url_path, "Where live/, ready/ and startup/ are answered.", metavar="PATH"
    )
    health_token: str = _option(
        "",
        units.text,
        "Bearer token that is shown the details on the health URLs, and the metrics.",
        metavar="TOKEN",
        secret=True,
    )
    dashboard_access: str | None = _option(
        None,
        units.dotted,
        "Who may see the dashboard: a callable that takes the request and returns a truth value; by default staff.",
        metavar="MODULE:CALLABLE",
    )
    dashboard_actions: str | None = _option(
        None,
        units.dotted,
        "Who of them may recycle and reload there: a callable of the same kind; by default users with the permission "
        "workerguard.operate, which superusers have.",
        metavar="MODULE:CALLABLE",
    )
    release: str = _option(
        "",
        _release,
        "Where a worker reads the release that it loaded: env:NAME, file:PATH or call:module:function.",
        metavar="SOURCE",
    )
    max_requests: int = _option(
        0,
        units.count(0),
        "Replace a worker after so many requests. 0: never. Mirrors uWSGI's max-requests; gunicorn's max_requests, "
        "where it is set, is taken for it.",
        metavar="N",
    )
    max_requests_delta: int = _option(
        0,
        units.count(0),
        "So many requests more for every slot after the first: delta × (slot - 1). Mirrors uWSGI's max-requests-delta.",
        metavar="N",
    )
    max_worker_lifetime: float = _option(
        0.0,
        units.seconds,
        "Replace a worker so long after it was started, on each server up to 5 % later, so that servers that were "
        "started together do not recycle together. 0: never. Mirrors uWSGI's max-worker-lifetime; here the successor is "
        "ready first.",
        metavar="SECONDS",
    )
    max_worker_lifetime_delta: float = _option(
        0.0,
        units.seconds,
        "So much longer for every slot after the first: delta × (slot - 1). Mirrors uWSGI's max-worker-lifetime-delta.",
        metavar="SECONDS",
    )
    min_worker_lifetime: float = _option(
        10.0,
        units.seconds,
        "How long a ready worker is left alone by max-requests, max-worker-lifetime, both rss rules and outlier. Not by "
        "reload, recycle, scale or stop, and not where it is not loaded. Mirrors uWSGI's min-worker-lifetime (10 s in "
        "its source, 60 in its documentation).",
        metavar="SECONDS",
    )
    reload_on_rss: int = _option(
        0,
        units.megabytes,
        "Replace a worker whose resident memory has been this large in three samples in a row, a second apart; idle "
        "ones too. 0: never. Mirrors uWSGI's reload-on-rss.",
        metavar="MB",
    )
    evil_reload_on_rss: int = _option(
        0,
        units.megabytes,
        "An emergency: kill a worker whose resident memory is this large, in the middle of whatever it does; one in "
        "min-worker-lifetime, never the last that is ready. 0: never. Mirrors uWSGI's evil-reload-on-rss.",
        metavar="MB",
    )
    reload_on_memory_error: bool = _option(
        True,
        units.switch,
        "Replace a worker in which a request ended in MemoryError.",
        metavar="on|off",
    )
    outlier: str = _option(
        "eject",
        units.choice(("eject", "report", "off")),
        "What becomes of a worker that answers 5xx where its peers do not: 'eject' (it is replaced within the budget), "
        "'report' (a finding tells of it), 'off'.",
        metavar="eject|report|off",
    )
    outlier_min_requests: int = _option(
        50,
        units.count(1),
        "So many requests in the last minute make a worker, and its peers together, comparable.",
        metavar="N",
    )
    worker_reload_mercy: float = _option(
        60.0,
        units.seconds,
        "How long a leaving worker gets to finish what is in hand before it is aborted with a stack dump, "
        "then killed; by default gunicorn's graceful_timeout if that was set. Mirrors uWSGI's "
        "worker-reload-mercy, for every reason.",
        metavar="SECONDS",
    )
    surge: int = _option(
        1,
        units.count(0),
        "Workers above the target while replacing; 0 means break before make: with one worker an outage at every replacement.",
        metavar="N",
    )
    drain_delay: float = _option(
        0.0,
        units.seconds,
        "Seconds to go on serving after SIGTERM with ready = 503. Then the server serves until no connection waits in the "
        "backlog, at most for worker-reload-mercy, and stops.",
        metavar="SECONDS",
    )
    notify: tuple[str, ...] = _option(
        (),
        _receivers,
        "Who is notified when a finding appears or clears: 'webhook:URL', 'email:ADDRESS', or 'command:PROGRAM ARGUMENT…', "
        "which gets the notice as JSON on its standard input. In one text a command stands last.",
        metavar="KIND:TARGET,…",
        secret=True,
    )
    notify_interval: float = _option(
        60.0, units.seconds, "The shortest time between two notices.", metavar="SECONDS"
    )
    log_format: str = _option(
        "text",
        units.choice(("text", "json")),
        "How the server's logs are written: as gunicorn writes them, or an object of JSON a line.",
        metavar="text|json",
    )
    run_dir: str | None = _option(
        None,
        units.text_or_none,
        "Where the scoreboard and the control socket lie; by default $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR, "
        "/dev/shm or the temporary directory.",
        metavar="DIR",
    )
    name: str | None = _option(
        None,
        units.text_or_none,
        "The server's name; by default that of the project's directory.",
        metavar="NAME",
    )


OPTIONS: Mapping[str, Option] = {
    f.name: Option(
        field=f.name,
        default=f.default,
        parse=f.metadata["parse"],
        help=f.metadata["help"],
        metavar=f.metadata["metavar"],
        secret=f.metadata["secret"],
    )
    for f in dataclasses.fields(GuardOptions)
}
