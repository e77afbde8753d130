"""``python -m django_workerguard serve``: the same server without manage.py. Runs in the starting command.

What unit files and images use: here even a project that cannot be imported is a failed
load, which is tried again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from django_workerguard.config import reading
from django_workerguard.config.arguments import add_arguments, collect, split_at_dashes
from django_workerguard.config.handover import Handover
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.resolve import COMMAND_LINE, ENVIRONMENT, Layer, from_environ, resolve
from django_workerguard.errors import ConfigurationError, ExitCode, WorkerguardError
from django_workerguard.launch import launch, require_linux
from django_workerguard.policy.backoff import back_off


def main(argv: list[str]) -> int:
    """Parse, read the settings, become the server. Return an exit code only if that fails."""
    own, passed_on = split_at_dashes(argv)
    try:
        require_linux()
        parsed = _parser().parse_args(own)
        action, guard, server = collect(vars(parsed))
        module = _prepare_path(parsed)
        told = _read_with_retries(module, _options(guard), where=_named_in(parsed))
        launch(
            Handover(
                action=action,
                project=str(Path.cwd()),
                settings_module=module,
                sys_path=list(sys.path),
                setting=told["setting"],
                applications=told["applications"],
                guard=guard,
                server=server,
                passed_on=passed_on,
            )
        )
    except WorkerguardError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(
            message,
            where="the command line",
            hint="gunicorn's own options go after --; --help shows the others.",
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m django_workerguard", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="serve")
    serve = commands.add_parser("serve", help="Serve a Django project with guarded workers.")
    serve.add_argument("--settings", help="The settings module; by default $DJANGO_SETTINGS_MODULE.")
    serve.add_argument("--pythonpath", help="A directory to add to the import path.")
    add_arguments(serve)
    return parser


def _prepare_path(parsed: argparse.Namespace) -> str:
    """Make the project importable, as manage.py would, and return the settings module's name."""
    for path in (parsed.pythonpath, os.getcwd()):
        if path and os.path.abspath(path) not in sys.path:
            sys.path.insert(0, os.path.abspath(path))
    module: str = parsed.settings or os.environ.get("DJANGO_SETTINGS_MODULE", "")
    if not module:
        raise ConfigurationError(
            "no settings module is named",
            option="settings",
            hint="Give --settings mysite.settings, or set DJANGO_SETTINGS_MODULE.",
        )
    os.environ["DJANGO_SETTINGS_MODULE"] = module
    return module


def _named_in(parsed: argparse.Namespace) -> str:
    return (
        "--settings on the command line" if parsed.settings else "DJANGO_SETTINGS_MODULE in the environment"
    )


def _options(guard: dict[str, str]) -> GuardOptions:
    """Resolve what is known before the settings could be read."""
    from_env, _, _ = from_environ(os.environ, ())
    return resolve([Layer(ENVIRONMENT, from_env), Layer(COMMAND_LINE, guard)]).options


def _read_with_retries(module: str, options: GuardOptions, *, where: str) -> dict[str, Any]:
    for attempt in range(1, options.load_retries + 1):
        told = _read(module, options.load_timeout or None)
        if "wrong" in told:
            raise ConfigurationError(told["wrong"], option="WORKERGUARD", where=module)
        if "setting" in told:
            return told
        if attempt < options.load_retries:
            wait = back_off(
                attempt,
                slot=0,
                first=options.load_retry_delay,
                longest=options.load_retry_max_delay,
                transient=False,
            )
            print(
                f"The settings cannot be imported: {told['error']}; next try in {wait:.1f} s", file=sys.stderr
            )
            time.sleep(wait)
    raise CannotLoadError(f"settings: {module!r} cannot be imported: {told['error']} (set in {where})")


def _read(module: str, patience: float | None) -> dict[str, Any]:
    # memory, not a file: a container may have no place that can be written to
    with os.fdopen(os.memfd_create("workerguard-settings"), "r+b") as answer:
        command, environ = reading.command(module, answer.fileno(), sys.path)
        try:
            subprocess.run(command, env=environ, pass_fds=(answer.fileno(),), timeout=patience, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"no end after {patience:g} s (load-timeout)"}
        return reading.answer(answer.fileno())


class CannotLoadError(WorkerguardError):
    """The project cannot be imported."""

    exit_code = ExitCode.LOAD_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
