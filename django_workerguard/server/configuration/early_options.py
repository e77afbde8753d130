"""Where values come from before the settings are read: command line, environment, gunicorn.conf.py. Runs in the arbiter."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import field
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any, NoReturn

from gunicorn.config import Config

from django_workerguard.config.environment import Changes
from django_workerguard.config.gunicorn_settings import of_platform
from django_workerguard.config.handover import Handover
from django_workerguard.config.redact import in_short, message_of
from django_workerguard.config.resolve import (
    COMMAND_LINE,
    CONFIG_FILE,
    ENVIRONMENT,
    Layer,
    Resolved,
    from_environ,
    resolve,
    split,
)
from django_workerguard.errors import ConfigurationError
from django_workerguard.values import value_class

CMD_ARGS = "GUNICORN_CMD_ARGS"
PASSED_ON = "{flag} on the command line, after --"
DEFAULT_FILE = "gunicorn.conf.py"
EARLY = ("chdir", "pythonpath", "raw_env")


@value_class(kw_only=True)
class ConfigFile:
    """A gunicorn.conf.py: where it was named, and what it defines."""

    name: str = ""  # "": there is none
    named_in: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)  # of its WORKERGUARD, the guard's options
    server: Mapping[str, Any] = field(default_factory=dict)  # and gunicorn's

    def __str__(self) -> str:
        places = f"no {DEFAULT_FILE} in the working directory or in the project's directory"
        return f"{self.name} ({self.named_in})" if self.name else places


@value_class(kw_only=True)
class EarlyOptions:
    """What must be in effect before the settings are imported. The directories are absolute."""

    chdir: str = ""
    pythonpath: tuple[str, ...] = ()
    environ: Changes = field(default_factory=dict)


@value_class(kw_only=True)
class Sources:
    """All layers but the settings', as they were written."""

    platform: Mapping[str, Mapping[str, Any]]  # by variable of the environment
    file: ConfigFile
    cmd_args: Mapping[str, Any]
    passed_on: Mapping[str, Any]
    environ_server: Mapping[str, str]
    environ_guard: Mapping[str, str]
    unknown: tuple[str, ...]
    handover: Handover

    @property
    def defaults(self) -> Iterator[Layer]:
        """Yield the layers of gunicorn's options that are weaker than the settings."""
        for variable, values in self.platform.items():
            yield Layer(f"{variable} in the environment", values)

    @property
    def server(self) -> Iterator[Layer]:
        """Yield the layers of gunicorn's options that are stronger than gunicorn.conf.py, weakest first."""
        yield Layer(CMD_ARGS, self.cmd_args)
        yield Layer(ENVIRONMENT, self.environ_server)
        yield Layer(PASSED_ON, self.passed_on)
        yield Layer(COMMAND_LINE, self.handover.server)

    @property
    def guard(self) -> list[Layer]:
        """Return the layers of the guard's options, weakest first."""
        return [
            Layer(CONFIG_FILE, self.file.guard, file=self.file.name),
            Layer(ENVIRONMENT, self.environ_guard),
            Layer(COMMAND_LINE, self.handover.guard),
        ]

    @property
    def app(self) -> str:
        """The application, if one of these sources names it."""
        named = [layer.values["app"] for layer in self.guard if layer.values.get("app")]
        return str(named[-1]) if named else ""

    def guard_options(self) -> Resolved:
        """Resolve what is known before the settings can be read. Raises ConfigurationError."""
        return resolve(self.guard)

    def early(self, by_file: Changes) -> EarlyOptions:
        """Return what must be in effect before the settings are imported. Raises ConfigurationError.

        ``by_file``: what gunicorn.conf.py itself has changed in the environment.
        """
        cfg = Config(prog="serve_guarded")
        of_file = (
            Layer("{file}", self.file.content, file=self.file.name),
            Layer(CONFIG_FILE, self.file.server, file=self.file.name),
        )
        stated = {
            name: layer
            for layer in (*of_file, *self.server)
            for name in EARLY
            if layer.values.get(name) is not None
        }
        for name, layer in stated.items():
            _set(cfg, name, layer)
        chdir = cfg.chdir if "chdir" in stated else ""
        paths = (cfg.pythonpath or "").split(",")
        return EarlyOptions(
            chdir=chdir,
            pythonpath=tuple(
                os.path.normpath(os.path.join(chdir or os.getcwd(), path)) for path in paths if path
            ),
            environ={**by_file, **_environ(cfg)},
        )


def _set(cfg: Config, name: str, layer: Layer) -> None:
    try:
        cfg.set(name, layer.values[name])
    except (Exception, SystemExit) as error:
        option = name.replace("_", "-")
        flag = next(flag for flag in cfg.settings[name].cli if flag.startswith("--"))
        problem = problem_with(layer.values[name], error)
        raise ConfigurationError(problem, option=option, where=layer.where(name, flag=flag)) from None


def problem_with(value: Any, error: BaseException) -> str:
    """Return gunicorn's objection to a value in one line, without secrets: the import of a class may quote settings.

    Its texts are not ours, so they are recognized by their beginning.
    """
    problem = message_of(error).strip(" ].\n")
    if problem.startswith("invalid literal for int"):
        return f"{value!r} is not a whole number"
    if isinstance(error, SystemExit):
        return f"{value!r} cannot be imported: SystemExit: {problem}"
    if problem.startswith("class uri"):  # a whole traceback follows, whose last line is the cause
        return f"{value!r} cannot be imported: {problem.splitlines()[-1]}"
    return problem or f"{value!r} is not understood"


def _environ(cfg: Config) -> Mapping[str, str]:
    try:
        environ: Mapping[str, str] = cfg.env
    except RuntimeError as error:
        raise ConfigurationError(str(error), option="raw-env") from None
    return environ


def read_sources(handover: Handover, cfg: Config, environ: Mapping[str, str]) -> Sources:
    """Read them all. Raises ConfigurationError, which names the place of what is wrong."""
    names = cfg.settings.keys()
    guard, server, unknown = from_environ(environ, names)
    parser = _Parser(cfg)
    passed_on = parser.read(handover.passed_on, "the command line, after --")
    cmd_args = parser.read(cfg.get_cmd_args_from_env(), CMD_ARGS)
    return Sources(
        platform=of_platform(environ),
        file=_read_file(*_named_file(handover, passed_on, server, cmd_args), names),
        cmd_args=cmd_args,
        passed_on=passed_on,
        environ_server=server,
        environ_guard=guard,
        unknown=tuple(unknown),
        handover=handover,
    )


def _named_file(
    handover: Handover,
    passed_on: Mapping[str, Any],
    environ_server: Mapping[str, str],
    cmd_args: Mapping[str, Any],
) -> tuple[str, str]:
    for values, where in (
        (handover.server, "--config on the command line"),
        (passed_on, "--config on the command line, after --"),
        (environ_server, Layer(ENVIRONMENT, {}).where("config")),
        (cmd_args, CMD_ARGS),
    ):
        if values.get("config"):
            return str(values["config"]), where
    for directory, where in (
        (os.getcwd(), "the working directory"),
        (handover.project, "the project's directory"),
    ):
        path = os.path.join(directory, DEFAULT_FILE)
        if os.path.exists(path):
            return path, where
    return "", ""


def _read_file(location: str, named_in: str, names: Any) -> ConfigFile:
    """Read gunicorn.conf.py, as gunicorn does."""
    if not location:
        return ConfigFile()
    content = _content(location, named_in)
    guard, server = split(content.get("WORKERGUARD", {}), names, where=f"WORKERGUARD in {location}")
    return ConfigFile(name=location, named_in=named_in, content=content, guard=guard, server=server)


def _content(location: str, named_in: str) -> dict[str, Any]:
    try:
        if location.startswith("python:"):
            name = location.removeprefix("python:")
            sys.modules.pop(name, None)  # a reload must read it again
            return dict(vars(import_module(name)))
        return dict(_run_file(location.removeprefix("file:")))
    except BaseException as error:
        problem = f"{location!r} cannot be read: {in_short(error)}"
        raise ConfigurationError(problem, option="config", where=named_in) from None


def _run_file(filename: str) -> dict[str, Any]:
    """Run a configuration file as the module ``__config__``, as gunicorn does."""
    loader = SourceFileLoader("__config__", filename)
    module = module_from_spec(spec_from_loader("__config__", loader) or ModuleSpec("__config__", loader))
    sys.modules["__config__"] = module
    loader.exec_module(module)
    return vars(module)


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
