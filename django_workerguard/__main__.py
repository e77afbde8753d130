"""``python -m django_workerguard serve``: the same server without manage.py. Runs in the starting command.

It is for unit files and images. If the project cannot be imported, that is a failed load, which
is retried.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from django_workerguard.cli.launch import launch, require_linux
from django_workerguard.config import standard_streams
from django_workerguard.config.arguments import add_arguments, collect, split_at_dashes
from django_workerguard.config.handover import Handover
from django_workerguard.config.output import show_error
from django_workerguard.config.project_path import through_link, working_directory
from django_workerguard.errors import ConfigurationError, WorkerguardError


def main(argv: list[str]) -> int:
    """Parse the arguments and become the server. Return an exit code only if that fails."""
    standard_streams.open_missing()
    own, passed_on = split_at_dashes(argv)
    try:
        require_linux()
        parsed = _parser().parse_args(own)
        action, guard, server = collect(vars(parsed))
        directory = working_directory(os.environ)
        module, named_in = _settings(parsed)
        launch(
            Handover(
                action=action,
                project=_project(parsed.pythonpath, module, directory),
                directory=directory,
                settings_module=module,
                settings_named_in=named_in,
                sys_path=_import_path(parsed.pythonpath, directory),
                guard=guard,
                server=server,
                passed_on=passed_on,
            )
        )
    except WorkerguardError as error:
        return show_error(error)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(
            message,
            where="the command line",
            hint="Pass gunicorn's own options after --; --help shows the others.",
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m django_workerguard",
        description="Serve a Django project with guarded workers, without manage.py.",
    )
    commands = parser.add_subparsers(required=True, metavar="serve")
    serve = commands.add_parser("serve", help="Serve a Django project with guarded workers.")
    serve.add_argument("--settings", help="Settings module. By default $DJANGO_SETTINGS_MODULE.")
    serve.add_argument("--pythonpath", help="Directory to add to the import path.")
    add_arguments(serve)
    return parser


def _settings(parsed: argparse.Namespace) -> tuple[str, str]:
    """Return the settings module ("" if gunicorn's `raw_env` may set it), and where it was set."""
    if parsed.settings:
        return parsed.settings, "--settings on the command line"
    return os.environ.get("DJANGO_SETTINGS_MODULE", ""), "DJANGO_SETTINGS_MODULE in the environment"


def _project(given: str | None, module: str, directory: str) -> str:
    """Return the directory that has the settings module, else the one that has a manage.py, else the working directory."""
    path = module.replace(".", "/")
    names = [*([f"{path}.py", f"{path}/__init__.py"] if path else []), "manage.py"]
    places = (directory, os.path.normpath(os.path.join(directory, given or "")))
    found = [place for name in names for place in places if os.path.exists(os.path.join(place, name))]
    return found[0] if found else directory


def _import_path(given: str | None, directory: str) -> list[str]:
    """Return the import path with the project first, as with manage.py."""
    path = through_link(sys.path, directory)
    for place in (given and os.path.join(directory, given), directory):
        if place and os.path.normpath(place) not in path:
            path.insert(0, os.path.normpath(place))
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
