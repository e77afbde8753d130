"""uWSGI as it shows itself to Python: the module ``uwsgi``, which exists only inside uWSGI. Runs in uWSGI's processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from django_workerguard.probe.process import start_time
from django_workerguard.values import value_class

THREADS = ("enable-threads", "threads", "py-autoreload", "python-autoreload", "py-auto-reload")
DYNAMIC = ("vhost", "vhost-host")  # a worker loads an application when the first request for it comes
BINDS = (
    "socket",
    "uwsgi-socket",
    "http",
    "http-socket",
    "https",
    "https-socket",
    "fastcgi-socket",
    "scgi-socket",
)
OFF = ("", "0", "false", "no", "off", "n")


class Uwsgi(Protocol):
    """The part of the module ``uwsgi`` that is used here."""

    opt: Mapping[Any, Any]

    def workers(self) -> Sequence[Mapping[str, Any]]:
        """Return what the master shares of each worker."""

    def worker_id(self) -> int:
        """Return the number of this worker; 0 in every other process."""

    def mule_id(self) -> int:
        """Return the number of this mule; 0 in every other process."""

    def i_am_the_spooler(self) -> bool:
        """Return whether this is a spooler."""

    def masterpid(self) -> int:
        """Return the pid of the master; 0 without one."""


@value_class(kw_only=True)
class Shown:
    """One worker as uWSGI shows it. ``requests`` are of its present process, ``requests_before`` of earlier ones."""

    id: int
    pid: int
    start: int  # of the process, in clock ticks; 0: it is gone
    loaded: bool
    requests: int
    requests_before: int
    busy: bool
    cheap: bool
    respawns: int
    load_seconds: int


class Server:
    """The uWSGI that this process belongs to."""

    def __init__(self, module: Uwsgi) -> None:
        self._module = module
        self.options = {_text(name): value for name, value in module.opt.items()}

    @property
    def worker_id(self) -> int:
        return self._module.worker_id()

    @property
    def is_master(self) -> bool:
        return not (self._module.worker_id() or self._module.mule_id() or self._module.i_am_the_spooler())

    @property
    def master(self) -> int:
        """The pid of the master; 0 without one."""
        return self._module.masterpid()

    @property
    def runs_threads(self) -> bool:
        """Whether uWSGI lets Python threads run between requests."""
        return any(map(self.has, THREADS))

    @property
    def loads_on_request(self) -> bool:
        return any(map(self.has, DYNAMIC))

    @property
    def binds(self) -> list[str]:
        values = [self.options[name] for name in BINDS if name in self.options]
        return [
            _text(one) for value in values for one in (value if isinstance(value, list | tuple) else [value])
        ]

    def has(self, option: str) -> bool:
        """Return whether an option is on."""
        return _text(self.options.get(option, "")).strip().lower() not in OFF

    def workers(self) -> list[Shown]:
        """Return what uWSGI shows of each worker now."""
        return [_shown(worker) for worker in self._module.workers()]


def _shown(worker: Mapping[str, Any]) -> Shown:
    apps, pid = worker["apps"], int(worker["pid"])
    total, now = int(worker["requests"]), int(worker["delta_requests"])
    status = _text(worker["status"])
    return Shown(
        id=int(worker["id"]),
        pid=pid,
        start=start_time(pid) if pid > 0 else 0,
        loaded=bool(apps),
        requests=now,
        requests_before=max(0, total - now),
        busy=status == "busy",
        cheap=status == "cheap",
        respawns=int(worker["respawn_count"]),
        load_seconds=max((int(app.get("startup_time", 0)) for app in apps), default=0),
    )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def this_server() -> Server | None:
    """Return the uWSGI that runs this process; None in every other process."""
    module = sys.modules.get("uwsgi")  # uWSGI puts it there before any code of the project runs
    if module is None or not all(
        hasattr(module, name) for name in ("workers", "worker_id", "masterpid", "opt")
    ):
        return None
    return Server(cast("Uwsgi", module))
