"""Definition of every option of the guard: name, unit, default, help. Runs anywhere.

The name of the field gives the spellings: ``--load-retries``, ``WORKERGUARD["LOAD_RETRIES"]``,
``WORKERGUARD_LOAD_RETRIES``. ``uwsgi`` is the name of the uWSGI option that an option mirrors.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from django_workerguard.config import units
from django_workerguard.config.monitor_address import MonitorAddress
from django_workerguard.values import value_class

NEED_APP = ("worker", "server", "off")
NEED_APP_SYNONYMS = {"true": "server", "1": "server", "yes": "server", "on": "server"} | dict.fromkeys(
    ("false", "0", "no"), "off"
)
NOTIFY = ("webhook", "email", "command")
MOST_BUCKETS = 15
WARMUP = ("urlconf", "templates", "lazy")
STEPS = (*WARMUP, "languages")


@value_class
class Option:
    """One option: its spellings, its default, its parser and its help."""

    field: str
    default: Any
    parse: Callable[[Any], Any]
    help: str
    metavar: str
    secret: bool
    uwsgi: str = ""  # the name of the uWSGI option that this one mirrors

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
    default: Any,
    parse: Callable[[Any], Any],
    help: str,
    *,
    metavar: str = "VALUE",
    secret: bool = False,
    uwsgi: str = "",
) -> Any:
    metadata = {"parse": parse, "help": help, "metavar": metavar, "secret": secret, "uwsgi": uwsgi}
    return field(default=default, metadata=metadata)


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


def _buckets(raw: Any) -> tuple[float, ...]:
    words = raw if isinstance(raw, list | tuple) else units.words(raw)
    bounds = tuple(units.seconds(word) for word in words)
    if not 1 <= len(bounds) <= MOST_BUCKETS:
        raise ValueError(f"{len(bounds)} bounds were given; it can be 1 to {MOST_BUCKETS}")
    if list(bounds) != sorted(set(bounds)) or bounds[0] <= 0:
        raise ValueError("the bounds must be above 0, and each above the one before")
    return bounds


def _receivers(raw: Any) -> tuple[str, ...]:
    receivers = units.words(raw)
    if isinstance(raw, str) and raw.strip().startswith("command:"):  # its arguments may contain commas
        if kinds := [kind for word in receivers[1:] if (kind := word.partition(":")[0]) in NOTIFY]:
            raise ValueError(
                f"a command takes the rest of the string, including '{kinds[0]}:…': put the command last, or write a list"
            )
        receivers = (raw.strip(),)
    for receiver in receivers:
        kind, _, target = receiver.partition(":")
        if kind not in NOTIFY or not target.strip():
            raise ValueError(f"{kind!r} is not one of {', '.join(f'{kind}:…' for kind in NOTIFY)}")
        if kind == "webhook" and not target.startswith(("http://", "https://")):
            raise ValueError("a webhook's URL must begin with http:// or https://")
        if kind == "command":
            shlex.split(target)  # raises ValueError if a quotation does not end
    return receivers


def _monitor_bind(raw: Any) -> str:
    bind = units.text(raw).strip()
    MonitorAddress.parse(bind)  # raises ValueError
    return bind


def _release(raw: Any) -> str:
    spec = units.text(raw)
    if spec and not spec.startswith(("env:", "file:", "call:")):
        raise ValueError(f"{raw!r} is not of the form env:NAME, file:PATH or call:module:function")
    return spec


@value_class(kw_only=True)
class GuardOptions:
    """The guard's options, parsed. Durations are in seconds."""

    app: str | None = _option(
        None,
        units.dotted,
        "The application to serve, WSGI or ASGI, as module:callable. By default WSGI_APPLICATION from the settings "
        "(ASGI_APPLICATION on an ASGI worker class), or Django's own if that is not set.",
        metavar="MODULE:CALLABLE",
    )
    load: str = _option(
        "lazy",
        units.choice(("lazy", "mold", "auto")),
        "How the workers come to the application. 'lazy': each worker loads it. 'mold': one process per generation, the "
        "mold, loads it, and the workers are forked from the mold; an application from which no worker can be forked is "
        "an error. 'auto': the same, but the workers of such an application load it themselves, and a finding says why.",
        metavar="lazy|mold|auto",
    )
    need_app: str = _option(
        "worker",
        units.choice(NEED_APP, synonyms=NEED_APP_SYNONYMS),
        "What happens when a worker cannot load. 'worker': it exits and its slot retries, while the other workers "
        "serve; the server exits with 22 only if every slot has used up its tries and no worker was ever ready. "
        "'server' or true: the server exits with 22 when one slot has used up its tries. 'off' or false: the worker "
        "stays unloaded, and answers 503 only while no worker is loaded.",
        metavar="worker|server|off",
        uwsgi="need-app",
    )
    load_retries: int = _option(
        3, units.count(1), "Number of failed loads of a slot after which need-app applies.", metavar="N"
    )
    load_retry_delay: float = _option(
        0.5,
        units.seconds,
        "Seconds of back-off after the first failed load or refused reload. The back-off doubles with each further "
        "failure.",
        metavar="SECONDS",
    )
    load_retry_max_delay: float = _option(
        30.0,
        units.seconds,
        "Longest back-off after a failed load or a refused reload, in seconds.",
        metavar="SECONDS",
    )
    load_timeout: float = _option(
        60.0,
        units.seconds,
        "Seconds that a load may take before the worker is aborted with a stack dump. Each time-out in "
        "a row doubles the time for the next load, up to four times this value. 0: no limit.",
        metavar="SECONDS",
    )
    load_concurrency: int | None = _option(
        None,
        units.count(1),
        "Number of workers that may load at the same time. By default the number of CPUs that the cgroup allows.",
        metavar="N",
    )
    warmup: tuple[str, ...] = _option(
        WARMUP,
        _warmup,
        "Parts that are loaded besides the application: urlconf, templates, lazy (everything else "
        "that Django imports on first use), languages (the catalogue and the formats of each language in LANGUAGES, "
        "not only of LANGUAGE_CODE; off by default, because many catalogues use much memory).",
        metavar="STEP,…",
    )
    urlconf: tuple[str, ...] = _option(
        (),
        units.words,
        "URLconfs to load in addition to ROOT_URLCONF, if a middleware or a host router chooses the URLconf for each "
        "request. If one of them cannot be loaded, the load fails, as it does for ROOT_URLCONF.",
        metavar="MODULE,…",
    )
    warmup_path: tuple[str, ...] = _option(
        (), _paths, "Paths to request from the application as part of the load.", metavar="PATH,…"
    )
    warmup_in_mold: bool = _option(
        False,
        units.switch,
        "With a mold, make the requests of warmup-path once, in the mold, and not in each worker: the workers then share "
        "what these requests have imported and computed. What a request starts, such as a thread, can make the mold unfit.",
        metavar="on|off",
    )
    load_probe: tuple[str, ...] = _option(
        (),
        units.words,
        "Callables to run as part of the load. The load fails if one of them raises an exception or returns False.",
        metavar="MODULE:CALLABLE,…",
    )
    accept_left_behind: tuple[str, ...] = _option(
        (),
        units.words,
        "Threads and sockets that a load may leave open without a finding, as shell patterns. A pattern matches the "
        "step ('app', 'warmup:*') or the full name in the finding ('app:thread:poller*').",
        metavar="PATTERN,…",
    )
    min_loaded: int = _option(
        1, units.count(1), "Number of ready workers required for the server to report ready.", metavar="N"
    )
    stand_in: bool = _option(
        True,
        units.switch,
        "After a failed load, while no worker is loaded, have a stand-in process answer 503 with Retry-After.",
        metavar="on|off",
    )
    stand_in_after: float = _option(
        5.0,
        units.seconds,
        "Seconds without a ready worker before the stand-in starts answering 503.",
        metavar="SECONDS",
    )
    give_up_after: float = _option(
        0.0,
        units.seconds,
        "Seconds without a ready worker after which the server exits with 22, so that an orchestrator can act. "
        "0: never.",
        metavar="SECONDS",
    )
    health_path: str = _option(
        "/health/", units.url_path, "URL path under which live/, ready/ and startup/ answer.", metavar="PATH"
    )
    health_token: str = _option(
        "",
        units.text,
        "Bearer token for the details on the health URLs and for the metrics.",
        metavar="TOKEN",
        secret=True,
    )
    dashboard_access: str | None = _option(
        None,
        units.dotted,
        "Callable that decides if a user may see the dashboard. It takes the request and returns a truth value. By "
        "default staff users may.",
        metavar="MODULE:CALLABLE",
    )
    dashboard_actions: str | None = _option(
        None,
        units.dotted,
        "Callable that decides if a user who may see the dashboard may also recycle and reload there. It takes the "
        "request and returns a truth value. By default users with the permission workerguard.operate may, which "
        "superusers have.",
        metavar="MODULE:CALLABLE",
    )
    dashboard_frame: str = _option(
        "own",
        units.choice(("own", "admin")),
        "Frame of the dashboard's pages: 'own' (needs nothing but the package), or 'admin' (the pages look like the "
        "admin, if it is installed and its static files can be found; otherwise they keep their own frame).",
        metavar="own|admin",
    )
    monitor_bind: str = _option(
        "",
        _monitor_bind,
        "Address of the monitor, a process that answers while all workers are busy, loading or dead. It has live/, "
        "ready/, startup/, metrics, status.json and a status page. An address that other hosts can reach needs a "
        "health-token, or the word without-token after the address. By default there is no monitor.",
        metavar="ADDRESS:PORT|[ADDRESS]:PORT|unix:PATH",
    )
    release: str = _option(
        "",
        _release,
        "Source from which a worker reads the release that it loaded: env:NAME, file:PATH or call:module:function.",
        metavar="SOURCE",
    )
    max_requests: int = _option(
        0,
        units.count(0),
        "Replace a worker after this number of requests. 0: never. If this option is not set, gunicorn's max_requests "
        "is used.",
        metavar="N",
        uwsgi="max-requests",
    )
    max_requests_delta: int = _option(
        0,
        units.count(0),
        "Additional requests for every slot after the first: delta × (slot - 1).",
        metavar="N",
        uwsgi="max-requests-delta",
    )
    max_worker_lifetime: float = _option(
        0.0,
        units.seconds,
        "Replace a worker this number of seconds after its start. It leaves when its successor is ready. Each server adds up to "
        "5 %, so that servers that were started together do not recycle together. 0: never.",
        metavar="SECONDS",
        uwsgi="max-worker-lifetime",
    )
    max_worker_lifetime_delta: float = _option(
        0.0,
        units.seconds,
        "Additional seconds of lifetime for every slot after the first: delta × (slot - 1).",
        metavar="SECONDS",
        uwsgi="max-worker-lifetime-delta",
    )
    min_worker_lifetime: float = _option(
        10.0,
        units.seconds,
        "Seconds for which a worker that has just become ready is not replaced or killed by these rules: max-requests, "
        "max-worker-lifetime, reload-on-rss, evil-reload-on-rss, reload-on-memory-error, outlier. A reload, recycle, "
        "scale or stop does not wait for it. It does not apply to a worker that is not loaded. uWSGI's default is 10 s in its source, 60 in its "
        "documentation.",
        metavar="SECONDS",
        uwsgi="min-worker-lifetime",
    )
    reload_on_rss: int = _option(
        0,
        units.megabytes,
        "Replace a worker whose resident memory has reached this size in three samples in a row, a second apart. Idle "
        "workers are replaced too. 0: never.",
        metavar="MB",
        uwsgi="reload-on-rss",
    )
    evil_reload_on_rss: int = _option(
        0,
        units.megabytes,
        "Kill a worker whose resident memory has reached this size, even in the middle of a request: for emergencies. "
        "At most one worker is killed per min-worker-lifetime, and never the last ready worker. 0: never.",
        metavar="MB",
        uwsgi="evil-reload-on-rss",
    )
    memory_margin: int = _option(
        16 << 20,
        units.megabytes,
        "Memory that must stay free beside a load or a fork, in the cgroup or on the machine. What a load needs is measured; one that "
        "does not fit waits as no-room until there is room, and is tried at growing intervals even so. The first load of "
        "an empty server never waits. 0: no load waits for memory.",
        metavar="MB",
    )
    reload_on_memory_error: bool = _option(
        True,
        units.switch,
        "Replace a worker after one of its requests ended in MemoryError.",
        metavar="on|off",
    )
    outlier: str = _option(
        "eject",
        units.choice(("eject", "report", "off")),
        "What happens when a worker answers 5xx and its peers do not: 'eject' (it is replaced within the disruption "
        "budget), 'report' (a finding reports it), 'off'.",
        metavar="eject|report|off",
    )
    outlier_latency: str = _option(
        "report",
        units.choice(("eject", "report", "off")),
        "What happens when a worker is slow and its peers are not: 'report' (a finding reports it), 'eject' (it is "
        "replaced within the disruption budget), 'off'.",
        metavar="report|eject|off",
    )
    outlier_min_requests: int = _option(
        50,
        units.count(1),
        "Least number of requests in the last minute for a comparison: the worker needs this many, and its peers "
        "together need this many too.",
        metavar="N",
    )
    slow_request: float = _option(
        0.0,
        units.seconds,
        "Write the stack of a request that has run for this number of seconds to the log and the journal, once. The "
        "request goes on. At most one stack per second is written. 0: never.",
        metavar="SECONDS",
    )
    request_timeout: float = _option(
        0.0,
        units.seconds,
        "Replace a worker in which a request has run for this number of seconds. The successor is ready first. Then the "
        "worker finishes its other requests, and what is left is aborted with a stack dump. 0: never, unless a view has a "
        "limit of its own.",
        metavar="SECONDS",
        uwsgi="harakiri",
    )
    request_timeout_action: str = _option(
        "replace",
        units.choice(("replace", "cancel", "report")),
        "What happens when a request has run longer than request-timeout or its own limit: 'replace' (the worker is "
        "replaced), 'cancel' (asgi and uvicorn only: the request's task is cancelled and answered 504; the worker is "
        "replaced if the request has not ended five seconds later), 'report' (a finding reports it).",
        metavar="replace|cancel|report",
    )
    queue_timeout: float = _option(
        0.0,
        units.seconds,
        "Answer a request 503 with Retry-After, instead of serving it, if it has waited for longer than this number of "
        "seconds before its worker could take it up. 0: serve every request. How long it has waited is unknown on a unix "
        "socket, unless the proxy sends X-Request-Start.",
        metavar="SECONDS",
    )
    socket_mode: int | None = _option(
        None,
        units.file_mode,
        "Mode of the files of unix sockets, in octal digits, such as 660. A client must be able to write. gunicorn's "
        "umask says the same in another form; by default every local user may connect. A change takes effect when the "
        "server is started again.",
        metavar="MODE",
        uwsgi="chmod-socket",
    )
    socket_owner: str = _option(
        "",
        units.owner,
        "Owner and group of the files of unix sockets: USER, USER:GROUP or :GROUP. Only root can give a file to another "
        "user; another user can choose a group of its own. By default those of the workers. A change takes effect when the "
        "server is started again.",
        metavar="USER:GROUP",
        uwsgi="chown-socket",
    )
    touch_reload: tuple[str, ...] = _option(
        (),
        units.words,
        "Files whose change asks for a reload: touching one of them, or replacing it. They are looked at once a second. "
        "Relative paths are relative to the project's directory.",
        metavar="FILE,…",
        uwsgi="touch-reload",
    )
    duration_buckets: tuple[float, ...] = _option(
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        _buckets,
        "Upper bounds, in seconds, of the buckets in which the durations of requests are counted, in ascending order, at "
        "most 15. A change takes effect when the server is started again.",
        metavar="SECONDS,…",
    )
    worker_reload_mercy: float = _option(
        60.0,
        units.seconds,
        "Seconds that a worker gets to finish its requests when it must leave, for any reason. Then it is aborted with a "
        "stack dump and killed. By default gunicorn's graceful_timeout, if that is set.",
        metavar="SECONDS",
        uwsgi="worker-reload-mercy",
    )
    surge: int = _option(
        1,
        units.count(0),
        "Number of workers that may exist above the target during a replacement. 0: the old worker leaves before its "
        "successor is started; with one worker, every replacement is an outage.",
        metavar="N",
    )
    drain_delay: float = _option(
        0.0,
        units.seconds,
        "Seconds that the server continues to serve after SIGTERM, while ready/ answers 503. Then it serves until no "
        "connection waits in the backlog, at most for worker-reload-mercy, and stops.",
        metavar="SECONDS",
    )
    notify: tuple[str, ...] = _option(
        (),
        _receivers,
        "Receivers of a notice when a finding appears or clears: 'webhook:URL', 'email:ADDRESS', or 'command:PROGRAM "
        "ARGUMENT…', which gets the notice as JSON on its standard input. In a string of several receivers, the command "
        "must be last.",
        metavar="KIND:TARGET,…",
        secret=True,
    )
    notify_interval: float = _option(
        60.0, units.seconds, "Shortest time between two notices, in seconds.", metavar="SECONDS"
    )
    log_format: str = _option(
        "text",
        units.choice(("text", "json", "uwsgi")),
        "Format of the server's logs: 'text' (as gunicorn writes them), 'json' (one JSON object per line), or 'uwsgi' (the "
        "access log as uWSGI writes its request log, the rest as text).",
        metavar="text|json|uwsgi",
    )
    run_dir: str | None = _option(
        None,
        units.text_or_none,
        "Directory of the scoreboard and the control socket. By default $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR, "
        "/dev/shm or the temporary directory.",
        metavar="DIR",
    )
    name: str | None = _option(
        None,
        units.text_or_none,
        "Name of the server. By default the name of the project's directory.",
        metavar="NAME",
    )


OPTIONS: Mapping[str, Option] = {
    f.name: Option(field=f.name, default=f.default, **f.metadata) for f in dataclasses.fields(GuardOptions)
}
