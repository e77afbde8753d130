"""The options that the drill changes, so that its server can touch nothing of a running one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from django_workerguard.drill.configuration import Configuration, Value
from django_workerguard.values import value_class

FAULT_PROBE = "django_workerguard.drill.fault:probe"
# hooks of gunicorn that run once for the server, and the function with the same number of arguments that replaces them;
# they may register the server somewhere or remove it. Hooks of a worker are a part of its load and run.
SERVER_HOOKS = {
    "on-starting": "django_workerguard.drill.fault.nothing",
    "on-reload": "django_workerguard.drill.fault.nothing",
    "when-ready": "django_workerguard.drill.fault.nothing",
    "on-exit": "django_workerguard.drill.fault.nothing",
    "pre-exec": "django_workerguard.drill.fault.nothing",
    "nworkers-changed": "django_workerguard.drill.fault.nothing_of_three",
}
# variables with which a service manager speaks to the server that it has started
NOT_INHERITED = ("NOTIFY_SOCKET", "LISTEN_FD", "LISTEN_PID", "WATCHDOG_", "GUNICORN_FD", "GUNICORN_PID")
LEAST_LOAD_TIMEOUT = 8.0  # seconds
LOADS = 5  # times the measured load, for a load time-out that a load on a busy machine does not reach


@value_class
class Change:
    """An option that the drill has changed, for people."""

    option: str
    value: str
    where: str
    now: str

    def __str__(self) -> str:
        return f"{self.option}: {self.now} (instead of {self.value or 'nothing'}, {self.where})"


@dataclass
class Overrides:
    """What the server of the drill gets beside its own configuration."""

    guard: dict[str, str] = field(default_factory=dict)  # by field
    bind: str = ""
    passed_on: list[str] = field(default_factory=list)  # arguments of gunicorn's
    environ: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def note(self, option: str, value: Value, now: str) -> None:
        """Remember a change of a value that somebody has set."""
        if value.is_set and value.text not in ("", "False"):
            self.changes.append(Change(option, value.text, value.where, now))


def overrides(
    configuration: Configuration, directory: PurePath, *, statsd: str, load_seconds: float
) -> Overrides:
    """Return the overrides. ``directory`` is the drill's own, ``statsd`` an address where packets get lost."""
    made = Overrides(bind=f"unix:{directory}/http.sock")
    made.note("bind", configuration["bind"], "a private socket")
    made.guard = {
        "run_dir": f"{directory}/run",
        "name": "drill",
        "load_probe": ",".join((*configuration.words("load-probe"), FAULT_PROBE)),
    }
    made.note("run-dir", configuration["run-dir"], "a private directory")
    made.note("name", configuration["name"], "drill")
    for option, now in (
        ("monitor-bind", "no monitor is started"),
        ("touch-reload", "no file is watched"),
        ("notify", "no notice is sent"),
        ("socket-owner", "the socket is not given away"),
    ):
        if configuration[option].text:
            made.guard[option.replace("-", "_")] = ""
            made.note(option, configuration[option], now)
    _limit_load(made, configuration["load-timeout"], load_seconds)
    _keep_files(made, configuration, directory, statsd)
    for hook, replacement in SERVER_HOOKS.items():
        if configuration[hook].is_set:
            made.environ[f"WORKERGUARD_{hook.replace('-', '_').upper()}"] = replacement
            made.note(hook, configuration[hook], "is not called")
    return made


def _limit_load(made: Overrides, configured: Value, load_seconds: float) -> None:
    """Lower the load time-out, or the hanging load would make the drill as long as the time-out."""
    limit = max(LEAST_LOAD_TIMEOUT, LOADS * load_seconds)
    seconds = float(configured.text or 0)
    if not seconds or seconds > limit:
        made.guard["load_timeout"] = f"{limit:.1f}"
        made.changes.append(
            Change(
                "load-timeout",
                configured.text,
                configured.where,
                f"{limit:.1f} s, so that a hanging load ends",
            )
        )


def _keep_files(made: Overrides, configuration: Configuration, directory: PurePath, statsd: str) -> None:
    def passed_on(option: str, flag: str, value: str, now: str) -> None:
        made.passed_on.append(f"{flag}={value}")
        made.note(option, configuration[option], now)

    passed_on("pidfile", "--pid", f"{directory}/pid", "a private file")
    passed_on("errorlog", "--error-logfile", "-", "the drill's own log")
    made.passed_on.append("--no-control-socket")
    made.note("control-socket", configuration["control-socket"], "is not opened")
    if configuration["accesslog"].text:
        passed_on("accesslog", "--access-logfile", f"{directory}/access.log", "a private file")
    for option, flag in (("logconfig", "--log-config"), ("logconfig-json", "--log-config-json")):
        if configuration[option].text:
            passed_on(option, flag, "", "is not read, because it may name log files")
    if configuration["statsd-host"].text:
        passed_on("statsd-host", "--statsd-host", statsd, "is not sent to")
    if configuration["protocol"].text not in ("", "http"):
        passed_on("protocol", "--protocol", "http", "http, which the load speaks")
    if configuration["proxy-protocol"].text not in ("", "off", "False"):
        passed_on("proxy-protocol", "--proxy-protocol", "off", "off, because no proxy is in front")
    if configuration["syslog"].text == "True":
        made.environ["WORKERGUARD_SYSLOG"] = "false"
        made.note("syslog", configuration["syslog"], "is not written to")


def without_flags(arguments: Sequence[str]) -> list[str]:
    """Return gunicorn's arguments without the flags that no later argument takes back."""
    return [argument for argument in arguments if argument != "--log-syslog"]


def environment(base: Mapping[str, str], made: Overrides) -> dict[str, str]:
    """Return the environment of the drill's server."""
    return {**dict(_inherited(base)), **made.environ}


def _inherited(base: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in base.items() if not name.startswith(NOT_INHERITED))
