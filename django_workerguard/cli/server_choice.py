"""Find the running server that a command is meant for. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from django_workerguard.errors import ConfigurationError, NoServerError
from django_workerguard.scoreboard.header import ServerKind
from django_workerguard.scoreboard.places import Server, as_paths, find_servers, server_name, unreadable


def choose(parsed: argparse.Namespace, *, here: Path) -> list[Server]:
    """Return the server that is meant; two if one replaces the other after SIGUSR2, the new one last.

    One's own server goes before those of other users, whose names anybody can choose. Raises NoServerError, and
    ConfigurationError if several servers could be meant.
    """
    kind = ServerKind.POOL if parsed.celery else ServerKind.WEB
    servers = candidates(parsed, kind, here=here)
    own = [server for server in servers if server.owner == os.geteuid()]
    return _one_family(own or servers)


def candidates(parsed: argparse.Namespace, kind: int, *, here: Path) -> list[Server]:
    """Return every server of a kind that could be meant. Raises NoServerError if there is none."""
    environ, uid = os.environ, os.geteuid()
    others = bool(parsed.name or parsed.run_dir)
    servers = list(find_servers(parsed.run_dir, environ=environ, uid=uid, kind=kind, others=others))
    noun = "guarded Celery worker" if kind == ServerKind.POOL else "server"
    if not servers:
        reasons = list(unreadable(parsed.run_dir, environ=environ, uid=uid, others=others))
        if not others:
            reasons.append(_elsewhere(uid))
        raise NoServerError("; ".join((f"no running {noun} was found", *filter(None, reasons))) + ".")
    if parsed.name:
        wanted = (parsed.name, server_name(parsed.name, here))
        named = [server for server in servers if server.name in wanted or server.label in wanted]
        if not named:
            raise NoServerError(f"no running {noun} is called {parsed.name!r}. Running: {_labels(servers)}.")
        return named
    near = _nearest(servers, here)
    if not near and not parsed.run_dir and (here / "manage.py").exists():
        raise NoServerError(f"no {noun} of this project is running. Running: {_labels(servers)}.")
    return near or servers


def _nearest(servers: list[Server], here: Path) -> list[Server]:
    """Return the servers of the project around this directory: the directory itself, else the closest above, else below."""
    by_project: dict[Path, list[Server]] = {}
    for server in servers:
        for project in as_paths(server.project):
            by_project.setdefault(project, []).append(server)
    for directory in (here, *here.parents):
        if directory in by_project:
            return by_project[directory]
    below = (inner for project, inner in by_project.items() if here in project.parents)
    return list(dict.fromkeys(server for inner in below for server in inner))


def _elsewhere(uid: int) -> str:
    """Return a hint about the servers of other users, which this user's commands do not search."""
    if uid == 0:
        return "root can see servers of other users with --name or --run-dir"
    return "only root can see a server that root has started"


def _one_family(servers: list[Server]) -> list[Server]:
    # a server can only replace a server of the same user in the same directory
    places = [(server.directory, server.owner) for server in servers]
    replaced = [server.board.read_about().get("replaces") for server in servers]
    replaced_ones = {(*place, pid) for place, pid in zip(places, replaced, strict=True)}
    heirs = [n for n, server in enumerate(servers) if (*places[n], server.pid) not in replaced_ones]
    if len(heirs) == 1:
        (heir,) = heirs
        before = [
            server
            for n, server in enumerate(servers)
            if n != heir and (*places[n], server.pid) == (*places[heir], replaced[heir])
        ]
        return [*before, servers[heir]]
    raise ConfigurationError(
        f"several servers are running: {_labels(servers)}", hint="Choose one with --name."
    )


def _labels(servers: list[Server]) -> str:
    return ", ".join(f"{server.label} ({server.project or 'project unknown'})" for server in servers)
