"""gunicorn's configuration in the guard's layers: every value knows where it was set. Runs in the arbiter."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from gunicorn.app.base import Application
from gunicorn.config import validate_group, validate_user
from gunicorn.errors import ConfigError

from django_workerguard.config.environment import change, difference
from django_workerguard.config.handover import Handover
from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.monitor_address import (
    WITHOUT_TOKEN,
    MonitorAddress,
    MonitorSettings,
)
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.redact import message_of
from django_workerguard.config.resolve import (
    CONFIG_FILE,
    SETTING,
    Layer,
    Resolved,
    resolve,
    split,
)
from django_workerguard.config.unix_path import LONGEST_PATH
from django_workerguard.errors import DEFAULT, ConfigurationError, set_in
from django_workerguard.policy.view import Policy
from django_workerguard.probe import cgroup
from django_workerguard.scoreboard.layout import MAX_SEATS
from django_workerguard.server.configuration.early_options import (
    ConfigFile,
    EarlyOptions,
    Sources,
    problem_with,
    read_sources,
)
from django_workerguard.server.configuration.inherited_modules import InheritedModules
from django_workerguard.server.configuration.process_state import enter
from django_workerguard.server.workers.mixin import is_asgi
from django_workerguard.worker.after_fork import become_subreaper

UNCHANGED = -1  # an id, for os.chown
REFUSED = {
    "preload_app": "the arbiter would load the application, and a failure there would stop the whole server",
    "reuse_port": "the kernel would give connections to workers that do not accept yet",
    "daemon": "the server must remain a child of its supervisor: use systemd, a container or nohup",
    "paste": "PasteDeploy applications are not Django's",
    "spew": "it would print every line that the arbiter runs",
    "check_config": "use --check, in front of the --",
    "print_config": "use --print-config, in front of the --",
}
# what to do about a refused setting, if its reason does not say it already
INSTEAD = {
    "preload_app": "Remove it, and set load=auto: one process, which is not the arbiter, loads the application, and the "
    "workers are forked from it.",
}
NAME_FILE = "Name the file with --config on the command line or with WORKERGUARD_CONFIG in the environment."
# packages of worker classes whose preparations the mold knows
PREPARED_IN_MOLD = ("gunicorn.", "uvicorn.", "uvicorn_worker.")
MOST_WORKERS = MAX_SEATS // 2
AUTO = "auto"  # a value of workers
# settings whose value is a class or an address, and what reads them
READ = {"worker_class": "worker_class", "logger_class": "logger_class", "bind": "address"}


def own_preparations(worker_class: type) -> list[str]:
    """Name the methods in which a worker class of a third party prepares its process before it loads the application."""
    return [
        method
        for method in ("init_process", "patch")
        for owner in [next((cls for cls in worker_class.__mro__ if method in vars(cls)), None)]
        if owner is not None and not owner.__module__.startswith(PREPARED_IN_MOLD)
    ]


class GuardedApplication(Application):
    """gunicorn's application object, without an application: the workers load it themselves.

    It is made in two steps, because some options must be in effect before the settings can be read: making it
    reads all other sources, `settle` adds the settings and checks the whole.
    """

    def __init__(
        self,
        handover: Handover,
        inheritance: InheritedModules | None = None,
        environ: MutableMapping[str, str] = os.environ,
    ) -> None:
        self.handover = handover
        self.inheritance = inheritance or InheritedModules(handover.project)
        self._environ = environ
        self.sources: dict[str, str] = {}
        self.warnings: list[str] = []
        self.read: Sources
        self.early: EarlyOptions
        self.guard: Resolved
        self.max_requests_jitter = 0  # requests
        self.auto_workers = False
        self.most_workers = 0  # for which the server has room from its start
        self.socket_owner = (UNCHANGED, UNCHANGED)  # uid and gid
        self._can_have_mold = True
        super().__init__(prog="serve_guarded")

    def do_load_config(self) -> None:
        """Read every source but the settings. Raises ConfigurationError where gunicorn would end the process."""
        self.environ_found = dict(self._environ)
        enter(self.handover.directory, self.handover.sys_path, self.handover.environ)
        self.load_default_config()  # gunicorn asks for the working directory, and a release may be gone by now
        self.cfg.env_orig = dict(self.environ_found)  # what SIGUSR2 starts a second arbiter with
        before = dict(self._environ)
        with self.inheritance.functions.in_place():
            self.read = read_sources(self.handover, self.cfg, self._environ)
        self._by_file = difference(before, self._environ)
        self.early = self.read.early(self._by_file)

    def settle(self, handover: Handover) -> None:
        """Take the settings, as they have been read. Raises ConfigurationError where gunicorn would end the process."""
        environ = dict(self.environ_found)
        change(environ, handover.environ)
        change(environ, self._by_file)
        change(self._environ, difference(self._environ, environ))
        self.handover = handover
        try:
            with (
                self.inheritance.functions.in_place()
            ):  # modules of classes that the configuration names are imported
                self.load_config()
                if hasattr(self.cfg, "validate"):  # from gunicorn 27 on
                    self.cfg.validate()
                self._conclude()
        except ConfigurationError:
            raise
        except (Exception, SystemExit) as error:
            raise self.blame(error) from error

    def leave_environment(self) -> None:
        """Take back what this configuration has changed in the environment, as gunicorn does with `raw_env`."""
        changed = {*self.handover.environ, *self._by_file, *self.cfg.env}
        change(self._environ, {name: self.environ_found.get(name) for name in changed})

    def blame(self, error: BaseException) -> ConfigurationError:
        """Turn gunicorn's error about a file into one that names the setting and where it was set. gunicorn names only the path."""
        problem = message_of(error).removeprefix("Error: ")
        for name, where in self.sources.items():
            value = str(self.cfg.settings[name].get())
            if "/" in value and (value in problem or os.path.dirname(value) in problem.split()):
                return ConfigurationError(problem, option=name.replace("_", "-"), where=where)
        return ConfigurationError(problem)

    def load_config(self) -> None:
        guard_setting, server_setting = split(self.handover.setting, self.cfg.settings.keys())
        self.warnings += [
            f"{name} in the environment is not an option of the guard" for name in self.read.unknown
        ]
        self.warnings += [
            f"{name.replace('_', '-')} is given before and after -- on the command line: only the first counts"
            for name in sorted(self.handover.server.keys() & self.read.passed_on.keys())
        ]
        self.cfg.set("default_proc_name", Path(self.handover.project).name or "django")
        self.cfg.set("chdir", self.handover.directory or os.getcwd())
        for layer in self.read.defaults:
            self._apply(layer)
        self._apply_dictionary(Layer(SETTING, server_setting))
        self._apply_file(self.read.file)
        for layer in self.read.server:
            self._apply(layer)
        self.chdir()
        self._extend_path()
        self.guard = resolve([Layer(SETTING, guard_setting), *self.read.guard])

    def _apply_file(self, file: ConfigFile) -> None:
        if not file.name:
            return
        self.sources["config"] = file.named_in
        for name, value in file.content.items():
            if name in self.cfg.settings:
                self._set(name, value, file.name)
        self._apply_dictionary(Layer(CONFIG_FILE, file.server, file=file.name))

    def _apply_dictionary(self, layer: Layer) -> None:
        """Apply a WORKERGUARD, which is read after gunicorn.conf.py and so cannot name it."""
        if layer.values.get("config"):
            raise ConfigurationError(
                "it is read before this place",
                option="config",
                where=layer.where("config"),
                hint=NAME_FILE,
            )
        self._apply(layer)

    def _extend_path(self) -> None:
        """Take gunicorn's `pythonpath` into the import path, in front, as gunicorn does."""
        for path in (self.cfg.pythonpath or "").split(","):
            if path and os.path.abspath(path) not in sys.path:
                sys.path.insert(0, os.path.abspath(path))

    def _apply(self, layer: Layer) -> None:
        for name, value in layer.values.items():
            self._set(name, value, layer.where(name, flag=self._flag(name)))

    def _flag(self, name: str) -> str | None:
        return next((flag for flag in self.cfg.settings[name].cli or () if flag.startswith("--")), None)

    def _set(self, name: str, value: Any, where: str) -> None:
        if name == "workers":
            self.auto_workers = str(value).strip().lower() == AUTO
            value = 1 if self.auto_workers else value
        try:
            self.cfg.set(name, value)
        except (Exception, SystemExit) as error:
            problem = problem_with(value, error)
            raise ConfigurationError(problem, option=name.replace("_", "-"), where=where) from None
        self.sources[name] = where

    def _conclude(self) -> None:
        for name, why in REFUSED.items():
            if self.cfg.settings[name].get():
                raise ConfigurationError(
                    f"it cannot be used here: {why}",
                    option=name.replace("_", "-"),
                    where=self.sources.get(name),
                    hint=INSTEAD.get(name),
                )
        if "http_parser" not in self.sources:
            self.cfg.set(
                "http_parser", "python"
            )  # the C parser, taken if installed, accepts what smuggles requests
        if "control_socket" not in self.sources:
            self.cfg.set("control_socket_disable", True)  # it would add a thread to the arbiter
        for name, attribute in READ.items():
            try:
                getattr(self.cfg, attribute)
            except (Exception, SystemExit) as error:
                value = self.cfg.settings[name].get()
                raise ConfigurationError(
                    problem_with(value, error), option=name.replace("_", "-"), where=self.sources.get(name)
                ) from None
        for address in self.cfg.address:
            if problem := _problem_with_address(address):
                raise ConfigurationError(problem, option="bind", where=self.sources.get("bind"))
        named = (
            self.handover.settings_module,
            self.guard.options.app or "",
            *self.handover.applications.values(),
        )
        self.inheritance.recognise(named)
        if packages := self.inheritance.packages():
            others = "a start-up file of Python (such as sitecustomize) or "
            self.warnings.append(
                f"{others if self.inheritance.has_early else ''}the configuration imports {', '.join(packages)} in the arbiter: the workers inherit these modules, "
                "and a reload imports them again"
            )
        if self.handover.debug:
            self.warnings.append(
                f"DEBUG is True in the settings ({self.handover.settings_module}): every visitor can see error pages with "
                "code and values. Name the settings for production with --settings or DJANGO_SETTINGS_MODULE."
            )
        self._settle_pid_file()
        self._settle_socket_files()
        self._settle_mercy()
        self._settle_max_requests()
        self._settle_load()
        self._settle_workers()
        self._check_together()

    def _settle_load(self) -> None:
        """Load in each worker if this process cannot get the workers that a mold forks as its children."""
        if self.guard.options.load == "lazy":
            return
        try:
            become_subreaper()
        except OSError as error:
            self._can_have_mold = False
            self.warnings.append(
                f"load={self.guard.options.load} is not possible here, so each worker loads the application by itself: "
                f"the kernel or a sandbox refuses prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(error.errno or 0)} "
                f"(set in {self.guard.sources['load']}). Allow it, or set load=lazy."
            )
            return
        for method in own_preparations(self.cfg.worker_class):
            self.warnings.append(
                f"the worker class {self.cfg.worker_class_str} prepares its process in {method}, which runs in each worker, "
                "after the mold has loaded the application. If the application must be loaded after it, set load=lazy."
            )

    def _settle_workers(self) -> None:
        """Begin with the quorum if the number of workers is to be chosen once a load has been measured."""
        self.most_workers = self.cfg.workers
        if self.auto_workers:
            from django_workerguard.policy.sizing import by_cpus  # here, because most sites need none of it

            self.cfg.set("workers", self.guard.options.min_loaded)
            self.sources["workers"] = f"auto, {self.sources['workers']}"
            number = by_cpus(cgroup.cpus(), event_loop=self.has_event_loop)
            room = (MAX_SEATS - self.guard.options.surge) // 2
            self.most_workers = max(self.cfg.workers, min(number, room))

    @property
    def has_event_loop(self) -> bool:
        """Whether a worker serves many requests at once on one CPU."""
        return not (self._is_a("SyncWorker") or self._is_a("ThreadWorker"))

    def _settle_pid_file(self) -> None:
        """Make the name absolute: gunicorn writes the file elsewhere, and cannot do so for a bare name."""
        if self.cfg.pidfile:
            self.cfg.set("pidfile", os.path.join(self.cfg.chdir, self.cfg.pidfile))

    def _settle_socket_files(self) -> None:
        """Have gunicorn create the files of unix sockets with the mode of `socket-mode`, and find the owner's numbers."""
        options, sources = self.guard.options, self.guard.sources
        if options.socket_mode is not None:
            if "umask" in self.sources:
                raise ConfigurationError(
                    "socket-mode and gunicorn's umask both set the mode of the socket",
                    option="socket-mode",
                    where=sources["socket_mode"],
                    hint=f"Use one of them. umask was set in {self.sources['umask']}.",
                )
            self.cfg.set("umask", 0o777 & ~options.socket_mode)
        user, _, group = options.socket_owner.partition(":")
        try:
            self.socket_owner = (
                validate_user(user) if user else UNCHANGED,
                validate_group(group) if group else UNCHANGED,
            )
        except ConfigError as error:
            raise ConfigurationError(
                str(error), option="socket-owner", where=sources["socket_owner"]
            ) from None

    def _settle_mercy(self) -> None:
        """Use one value for worker-reload-mercy and gunicorn's graceful_timeout, which bounds a drain from inside."""
        if "graceful_timeout" in self.sources and not self.guard.is_set("worker_reload_mercy"):
            mercy = float(self.cfg.graceful_timeout)
            where = f"graceful-timeout, {self.sources['graceful_timeout']}"
            self.guard = Resolved(
                replace(self.guard.options, worker_reload_mercy=mercy),
                {**self.guard.sources, "worker_reload_mercy": where},
            )
        elif "graceful_timeout" not in self.sources:
            self.sources["graceful_timeout"] = "worker-reload-mercy"
        self.cfg.set("graceful_timeout", math.ceil(self.guard.options.worker_reload_mercy))

    def _settle_max_requests(self) -> None:
        """Take gunicorn's max_requests for ours: its own would have the worker leave before its successor loads."""
        requests, self.max_requests_jitter = self.cfg.max_requests, self.cfg.max_requests_jitter
        if requests and not self.guard.is_set("max_requests"):
            where = f"gunicorn's max_requests, {self.sources['max_requests']}"
            self.guard = Resolved(
                replace(self.guard.options, max_requests=requests),
                {**self.guard.sources, "max_requests": where},
            )
        for name in ("max_requests", "max_requests_jitter"):
            self.cfg.set(name, 0)
            if name in self.sources:
                self.sources[name] = f"used as max-requests, {self.sources[name]}"

    def _check_together(self) -> None:
        workers, quorum = self.cfg.workers, self.guard.options.min_loaded
        if not 1 <= workers <= MOST_WORKERS:
            raise ConfigurationError(
                f"the number of workers must be from 1 to {MOST_WORKERS}, not {workers}",
                option="workers",
                where=self.sources.get("workers"),
            )
        surge = self.guard.options.surge
        if 2 * workers + surge > MAX_SEATS:
            raise ConfigurationError(
                f"a surge of {surge} beside {workers} workers needs more than {MAX_SEATS} seats",
                option="surge",
                where=self.guard.sources["surge"],
                hint=f"With {workers} workers it can be up to {MAX_SEATS - 2 * workers}.",
            )
        options = self.guard.options
        if options.request_timeout and options.slow_request >= options.request_timeout:
            raise ConfigurationError(
                f"a slow request is written down after {options.slow_request:g} s, but request-timeout replaces its worker "
                f"after {options.request_timeout:g} s",
                option="slow-request",
                where=self.guard.sources["slow_request"],
                hint="Choose a slow-request below request-timeout.",
            )
        if options.request_timeout_action == "cancel" and not is_asgi(self.cfg.worker_class):
            raise ConfigurationError(
                f"a request of the worker class {self.cfg.worker_class_str} cannot be cancelled: Python cannot stop a thread",
                option="request-timeout-action",
                where=self.guard.sources["request_timeout_action"],
                hint="Use 'replace', which ends the worker once its successor is ready, or an asynchronous worker class.",
            )
        if self.cfg.protocol == "uwsgi" and self._is_a("UvicornWorker"):
            raise ConfigurationError(
                "uvicorn speaks only HTTP, not the uwsgi protocol",
                option="protocol",
                where=self.sources.get("protocol"),
                hint="Use the worker class asgi, or proxy_pass in nginx.",
            )
        if self._is_a("SyncWorker") and 0 < self.cfg.timeout <= options.request_timeout:
            self.warnings.append(
                f"gunicorn's timeout of {self.cfg.timeout} s ends a sync worker, without a successor, before request-timeout "
                f"({options.request_timeout:g} s) would replace it; set a longer timeout"
            )
        address = self.monitor.address
        if address is not None and address.is_public and not (options.health_token or address.without_token):
            raise ConfigurationError(
                f"other hosts can reach {address}, and no health-token is set: they could read the state of the server",
                option="monitor-bind",
                where=self.guard.sources["monitor_bind"],
                hint="Set a health-token, or listen at 127.0.0.1, [::1] or unix:PATH. If other hosts are meant to read it "
                f"without a token, write '{address} {WITHOUT_TOKEN}'.",
            )
        if quorum > workers:
            raise ConfigurationError(
                f"a quorum of {quorum} cannot be reached by {workers} workers",
                option="min-loaded",
                where=self.guard.sources["min_loaded"],
                hint=f"workers={workers}: {set_in(self.sources.get('workers', DEFAULT))}.",
            )

    def load_request(self, *, asgi: bool) -> LoadRequest:
        """Return what a worker is to load."""
        options = self.guard.options
        interface: Literal["asgi", "wsgi"] = "asgi" if asgi else "wsgi"
        return LoadRequest(
            app=options.app or self.cfg.wsgi_app or self.handover.applications.get(interface),
            interface=interface,
            warmup=options.warmup,
            warmup_path=options.warmup_path,
            warmup_in_mold=options.warmup_in_mold,
            load_probe=options.load_probe,
            release=options.release,
            urlconf=options.urlconf,
        )

    @property
    def _threads(self) -> int:
        """How many requests a worker can serve at once; 0: as many as come."""
        return int(self.cfg.threads) if self._is_a("ThreadWorker") else int(self._is_a("SyncWorker"))

    def _is_a(self, name: str) -> bool:
        return any(cls.__name__ == name for cls in self.cfg.worker_class.__mro__)

    @property
    def monitor(self) -> MonitorSettings:
        """Return what the monitor needs."""
        options = self.guard.options
        return MonitorSettings(
            address=MonitorAddress.parse(options.monitor_bind),
            where=self.guard.sources["monitor_bind"],
            token=options.health_token,
            uid=self.cfg.uid,
            gid=self.cfg.gid,
            project=self.handover.project,
            run_dir=options.run_dir or self._environ.get("WORKERGUARD_RUN_DIR"),
        )

    @property
    def policy(self) -> Policy:
        """Return the options that decide, in the form that the policy takes."""
        options: GuardOptions = self.guard.options
        developing = bool(self.cfg.reload)
        return Policy.of(
            options,
            # a worker that ends because a file has changed must not be forked from the code before the change
            load="lazy" if developing or not self._can_have_mold else options.load,
            load_retry_max_delay=1.0 if developing else options.load_retry_max_delay,
            load_concurrency=options.load_concurrency or cgroup.cpus(),
            timeout=float(self.cfg.timeout),
            threads=self._threads,
            accepts_ahead=self._is_a("ThreadWorker"),
            max_requests_jitter=self.max_requests_jitter,
            never_give_up=developing,
            auto_workers=self.auto_workers,
        )

    def load(self) -> NoReturn:
        raise RuntimeError("the arbiter never loads the application")


def _problem_with_address(address: Any) -> str:
    """Return why gunicorn cannot use an address, on any machine; "" if it may."""
    if isinstance(address, tuple) and not 0 <= address[1] <= 65535:
        return f"{address[1]} is not a port: the highest is 65535"
    if isinstance(address, str) and (length := len(os.fsencode(address.lstrip("\0")))) > LONGEST_PATH:
        return f"the path of a unix socket has at most {LONGEST_PATH} bytes, and {address!r} has {length}"
    return ""
