"""Which running server a command means. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from django_workerguard.errors import ConfigurationError, NoServerError
from django_workerguard.scoreboard.header import ServerKind
from django_workerguard.scoreboard.places import Server, find_servers, server_name, unreadable


def choose(parsed: argparse.Namespace, *, here: Path) -> list[Server]:
    """Return the server that is meant; two where one replaces the other after SIGUSR2.

    Raises NoServerError, and ConfigurationError where several could be meant.
    """
    kind = ServerKind.POOL if parsed.celery else ServerKind.WEB
    return _one_family(candidates(parsed, kind, here=here))


def candidates(parsed: argparse.Namespace, kind: int, *, here: Path) -> list[Server]:
    """Return every server of a kind that could be meant. Raises NoServerError where there is none."""
    environ, uid = os.environ, os.geteuid()
    others = bool(parsed.name or parsed.run_dir)
    found = list(find_servers(parsed.run_dir, environ=environ, uid=uid, kind=kind, others=others))
    what = "guarded Celery worker" if kind == ServerKind.POOL else "server"
    if not found:
        reasons = list(unreadable(parsed.run_dir, environ=environ, uid=uid, others=others))
        if not others:
            reasons.append(_elsewhere(uid))
        raise NoServerError("; ".join((f"no running {what} was found", *filter(None, reasons))) + ".")
    if parsed.name:
        wanted = (parsed.name, server_name(parsed.name, here))
        named = [server for server in found if server.name in wanted or server.label in wanted]
        if not named:
            raise NoServerError(f"no running {what} is called {parsed.name!r}: there is {_labels(found)}.")
        return named
    near = _nearest(found, here)
    if not near and not parsed.run_dir and (here / "manage.py").exists():
        raise NoServerError(f"no {what} of this project runs: there is {_labels(found)}.")
    return near or found


def _nearest(found: list[Server], here: Path) -> list[Server]:
    """Return the servers of the project in which somebody stands: of this directory, else the closest above, else below."""
    by_project: dict[Path, list[Server]] = {}
    for server in found:
        for project in {Path(server.project), Path(os.path.realpath(server.project))}:
            by_project.setdefault(project, []).append(server)
    for directory in (here, *here.parents):
        if directory in by_project:
            return by_project[directory]
    below = (servers for project, servers in by_project.items() if here in project.parents)
    return list(dict.fromkeys(server for servers in below for server in servers))


def _elsewhere(uid: int) -> str:
    """Say where servers may be that this user's commands do not look at."""
    if uid == 0:
        return "root sees servers of other users by --name or --run-dir"
    return "a server that root has started is seen by root alone"


def _one_family(servers: list[Server]) -> list[Server]:
    # a server's word that it replaces another counts only for one in the same directory and of the same user
    places = [(server.directory, server.owner) for server in servers]
    replaced = [server.board.read_about().get("replaces") for server in servers]
    gone = {(*place, pid) for place, pid in zip(places, replaced, strict=True)}
    heirs = [n for n, server in enumerate(servers) if (*places[n], server.pid) not in gone]
    if len(heirs) == 1:
        (heir,) = heirs
        before = [
            server
            for n, server in enumerate(servers)
            if n != heir and (*places[n], server.pid) == (*places[heir], replaced[heir])
        ]
        return [*before, servers[heir]]
    raise ConfigurationError(f"several servers run: {_labels(servers)}", hint="Choose one with --name.")


def _labels(servers: list[Server]) -> str:
    return ", ".join(f"{server.label} ({server.project})" for server in servers)
