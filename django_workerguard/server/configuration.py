"""gunicorn's configuration in the guard's layers: every value knows where it was set. Runs in the arbiter."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, Literal, NoReturn

from gunicorn.app.base import Application
from gunicorn.config import Config, get_default_config_file

from django_workerguard.config.handover import Handover
from django_workerguard.config.loading import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.resolve import (
    COMMAND_LINE,
    CONFIG_FILE,
    DEFAULT,
    ENVIRONMENT,
    SETTING,
    Layer,
    Resolved,
    from_environ,
    resolve,
    split,
)
from django_workerguard.errors import ConfigurationError, in_short
from django_workerguard.policy.view import Policy
from django_workerguard.probe import cgroup
from django_workerguard.scoreboard.layout import MAX_SEATS

REFUSED = {
    "preload_app": "the application would be loaded in the arbiter, whose failure costs the whole server",
    "reuse_port": "the kernel would give connections to workers that do not accept yet",
    "daemon": "the server must stay the child of who supervises it; use systemd, a container or nohup",
    "paste": "PasteDeploy applications are not Django's",
    "spew": "it would print every line that the arbiter runs",
    "check_config": "use --check, in front of the --",
    "print_config": "use --print-config, in front of the --",
}
MOST_WORKERS = MAX_SEATS // 2
# settings whose value is a class or an address, and what reads them
READ = {"worker_class": "worker_class", "logger_class": "logger_class", "bind": "address"}


class GuardedApplication(Application):
    """gunicorn's application object, without an application: the workers load it themselves."""

    def __init__(self, handover: Handover, environ: Mapping[str, str] = os.environ) -> None:
        self.handover = handover
        self._environ = environ
        self.sources: dict[str, str] = {}
        self.warnings: list[str] = []
        self.guard: Resolved
        self.max_requests_jitter = 0  # requests
        super().__init__(prog="serve_guarded")

    def do_load_config(self) -> None:
        """Read every layer. Raises ConfigurationError where gunicorn would end the process."""
        try:
            self.load_default_config()
            self.load_config()
            self.cfg.validate()
            self._conclude()
        except ConfigurationError:
            raise
        except Exception as error:
            raise self.blame(error) from error

    def blame(self, error: Exception) -> ConfigurationError:
        """Turn what gunicorn says of a file into an error that names the setting and where it was set."""
        said = str(error).removeprefix("Error: ")
        for name, where in self.sources.items():
            value = str(self.cfg.settings[name].get())
            if "/" in value and (value in said or os.path.dirname(value) in said.split()):
                return ConfigurationError(said, option=name.replace("_", "-"), where=where)
        return ConfigurationError(said)

    def load_config(self) -> None:
        names = self.cfg.settings.keys()
        guard_setting, server_setting = split(self.handover.setting, names)
        guard_env, server_env, unknown = from_environ(self._environ, names)
        self.warnings += [f"{name} in the environment is no option of the guard" for name in unknown]
        parser = _Parser(self.cfg)
        passed_on = parser.read(self.handover.passed_on, "the command line, after --")
        cmd_args = parser.read(self.cfg.get_cmd_args_from_env(), "GUNICORN_CMD_ARGS")
        self.cfg.set("default_proc_name", Path(self.handover.project).name or "django")
        self._apply(Layer(SETTING, server_setting))
        guard_file = self._read_file(*self._named_file(passed_on, cmd_args))
        self._apply(Layer("GUNICORN_CMD_ARGS", cmd_args))
        self._apply(Layer(ENVIRONMENT, server_env))
        self._apply(Layer("{flag} on the command line, after --", passed_on))
        self._apply(Layer(COMMAND_LINE, self.handover.server))
        self.chdir()
        self._extend_path()
        self.guard = resolve(
            [
                Layer(SETTING, guard_setting),
                guard_file,
                Layer(ENVIRONMENT, guard_env),
                Layer(COMMAND_LINE, self.handover.guard),
            ]
        )

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
        try:
            self.cfg.set(name, value)
        except Exception as error:
            problem = _problem(value, error)
            raise ConfigurationError(problem, option=name.replace("_", "-"), where=where) from None
        self.sources[name] = where

    def _named_file(
        self, passed_on: Mapping[str, Any], cmd_args: Mapping[str, Any]
    ) -> tuple[str | None, str]:
        for values, where in (
            (self.handover.server, "--config on the command line"),
            (passed_on, "--config on the command line, after --"),
            (cmd_args, "GUNICORN_CMD_ARGS"),
        ):
            if values.get("config"):
                return str(values["config"]), where
        return get_default_config_file(), "the project's directory"

    def _read_file(self, path: str | None, where: str) -> Layer:
        """Read gunicorn.conf.py, as gunicorn finds it; return what it says of the guard's options."""
        if path is None:
            return Layer(CONFIG_FILE, {})
        self.sources["config"] = where
        django_before = "django" in sys.modules
        content = self.load_config_from_file(path)
        if "django" in sys.modules and not django_before:
            self.warnings.append(
                f"{path} imports Django: every worker will inherit it, and what it holds, from the arbiter"
            )
        for name in content:
            if name in self.cfg.settings:
                self.sources[name] = path
        guard, server = split(
            content.get("WORKERGUARD", {}), self.cfg.settings.keys(), where=f"WORKERGUARD in {path}"
        )
        self._apply(Layer(CONFIG_FILE, server, file=path))
        return Layer(CONFIG_FILE, guard, file=path)

    def load_config_from_module_name_or_filename(self, location: str) -> dict[str, Any]:
        content = self._content(location)
        for name, value in content.items():
            if name in self.cfg.settings:
                self._set(name, value, location)
        return content

    def _content(self, location: str) -> dict[str, Any]:
        try:
            if location.startswith("python:"):
                return dict(self.get_config_from_module_name(location.removeprefix("python:")))
            return dict(_run_file(location.removeprefix("file:")))
        except BaseException as error:
            problem = f"{location!r} cannot be read: {in_short(error)}"
            raise ConfigurationError(problem, option="config", where=self.sources["config"]) from None

    def _conclude(self) -> None:
        for name, why in REFUSED.items():
            if self.cfg.settings[name].get():
                raise ConfigurationError(
                    f"it cannot be used here: {why}",
                    option=name.replace("_", "-"),
                    where=self.sources.get(name),
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
            except Exception as error:
                value = self.cfg.settings[name].get()
                raise ConfigurationError(
                    _problem(value, error), option=name.replace("_", "-"), where=self.sources.get(name)
                ) from None
        self._settle_mercy()
        self._settle_max_requests()
        self._check_together()

    def _settle_mercy(self) -> None:
        """Make one figure of worker-reload-mercy and gunicorn's graceful_timeout, which bounds a drain from inside."""
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
                self.sources[name] = f"taken for max-requests, {self.sources[name]}"

    def _check_together(self) -> None:
        workers, quorum = self.cfg.workers, self.guard.options.min_loaded
        if not 1 <= workers <= MOST_WORKERS:
            raise ConfigurationError(
                f"there can be 1 to {MOST_WORKERS} workers, not {workers}",
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
        if quorum > workers:
            raise ConfigurationError(
                f"a quorum of {quorum} cannot be reached by {workers} workers",
                option="min-loaded",
                where=self.guard.sources["min_loaded"],
                hint=f"workers was set in {self.sources.get('workers', DEFAULT)}.",
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
            load_probe=options.load_probe,
            release=options.release,
            urlconf=options.urlconf,
        )

    @property
    def policy(self) -> Policy:
        """Return the options that decide, in the form that the policy takes."""
        options: GuardOptions = self.guard.options
        developing = bool(self.cfg.reload)
        return Policy(
            need_app=options.need_app,
            load_retries=options.load_retries,
            load_retry_delay=options.load_retry_delay,
            load_retry_max_delay=1.0 if developing else options.load_retry_max_delay,
            load_timeout=options.load_timeout,
            load_concurrency=options.load_concurrency or cgroup.cpus(),
            min_loaded=options.min_loaded,
            stand_in=options.stand_in,
            stand_in_after=options.stand_in_after,
            give_up_after=options.give_up_after,
            mercy=options.worker_reload_mercy,
            timeout=float(self.cfg.timeout),
            surge=options.surge,
            max_requests=options.max_requests,
            max_requests_delta=options.max_requests_delta,
            max_requests_jitter=self.max_requests_jitter,
            max_worker_lifetime=options.max_worker_lifetime,
            max_worker_lifetime_delta=options.max_worker_lifetime_delta,
            min_worker_lifetime=options.min_worker_lifetime,
            reload_on_rss=options.reload_on_rss,
            evil_reload_on_rss=options.evil_reload_on_rss,
            reload_on_memory_error=options.reload_on_memory_error,
            outlier=options.outlier,
            outlier_min_requests=options.outlier_min_requests,
            drain_delay=options.drain_delay,
            never_give_up=developing,
        )

    def load(self) -> NoReturn:
        raise RuntimeError("the arbiter never loads the application")


class _Parser:
    """gunicorn's own argument parser, whose errors name where the arguments came from."""

    def __init__(self, cfg: Config) -> None:
        self._parser = cfg.parser()

    def read(self, arguments: list[str], where: str) -> dict[str, Any]:
        def error(message: str) -> NoReturn:
            raise ConfigurationError(message, where=where)

        self._parser.error = error
        parsed: argparse.Namespace = self._parser.parse_args(arguments)
        if parsed.args:
            raise ConfigurationError(
                f"{parsed.args[0]!r} is not an option", where=where, hint="Name the application with --app."
            )
        return {name: value for name, value in vars(parsed).items() if value is not None and name != "args"}


def _run_file(filename: str) -> dict[str, Any]:
    """Run a configuration file as the module ``__config__``, as gunicorn does."""
    loader = SourceFileLoader("__config__", filename)
    module = module_from_spec(spec_from_loader("__config__", loader) or ModuleSpec("__config__", loader))
    sys.modules["__config__"] = module
    loader.exec_module(module)
    return vars(module)


def _problem(value: Any, error: Exception) -> str:
    """Say in one line what gunicorn has against a value."""
    said = str(error).strip(" ].\n")
    if said.startswith("invalid literal for int"):
        return f"{value!r} is not a whole number"
    if said.startswith("class uri"):  # a whole traceback follows, whose last line is the cause
        return f"{value!r} cannot be imported: {said.splitlines()[-1]}"
    return said or f"{value!r} is not understood"
