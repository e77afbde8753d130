"""The listeners: why they cannot be opened, and how they are closed. Runs in the arbiter.

gunicorn's own function removes any file at the path of a unix socket, and fails if there is none.
"""

from __future__ import annotations

import contextlib
import os
import stat
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from gunicorn.sock import close_sockets

from django_workerguard.errors import CannotListenError, ConfigurationError
from django_workerguard.server.configuration.guarded_application import UNCHANGED, GuardedApplication

File = tuple[int, int]  # device and inode


def socket_files(listeners: Iterable[Any]) -> dict[str, File]:
    """Return by path which files the unix sockets among new listeners have made."""
    paths = (listener.cfg_addr for listener in listeners if isinstance(listener.cfg_addr, str))
    return {path: file for path in paths if (file := _file(path)) is not None}


def close_listeners(listeners: Iterable[Any], files: Mapping[str, File]) -> None:
    """Close every listener, and remove the socket files that are still the ones in ``files``."""
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.close()
    for path, file in files.items():
        if _file(path) == file:
            with contextlib.suppress(OSError):
                os.unlink(path)


def give_socket_files(files: Iterable[str], app: GuardedApplication) -> None:
    """Give the files of unix sockets to the owner that `socket-owner` names. Raises ConfigurationError."""
    uid, gid = app.socket_owner
    if (uid, gid) == (UNCHANGED, UNCHANGED):
        return
    for path in files:
        try:
            os.chown(path, uid, gid, follow_symlinks=False)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be given to {app.guard.options.socket_owner}: {error.strerror}",
                option="socket-owner",
                where=app.guard.sources["socket_owner"],
                hint="Start the server as root, or give only a group (:GROUP) that this user is a member of.",
            ) from None


def _file(path: str) -> File | None:
    """Return the identity of a unix socket's file; None if there is no file, or no socket."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: the abstract namespace
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None


NEEDED = {"addr", "sock_type", "conf", "log"}  # local variables of gunicorn's `create_sockets`


def start_error(error: BaseException, app: GuardedApplication) -> ConfigurationError | None:
    """Return which setting stopped the start; None if the error is a hook's own."""
    if isinstance(error, Exception):
        blamed = app.blame(error)
        if blamed.option:
            return blamed
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    opening = next((frame for frame in frames if frame.f_globals.get("__name__") == "gunicorn.sock"), None)
    if opening is None:
        return None
    where = app.sources.get("bind", "default")
    if not isinstance(error, SystemExit):
        problem = f"cannot listen at {', '.join(map(str, app.cfg.settings['bind'].get()))}: {error}"
        return ConfigurationError(problem, option="bind", where=where)
    if not set(opening.f_locals) >= NEEDED:  # another gunicorn
        return CannotListenError("cannot listen", option="bind", where=where, hint="See the lines above.")
    return _cannot_listen(opening.f_locals, where)


def _cannot_listen(opening: Mapping[str, Any], where: str) -> CannotListenError:
    """Return the error for the address that gunicorn has tried in vain. ``opening``: its function's local variables."""
    from django_workerguard.arbiter.bind_hint import bind_hint  # imported late: it is seldom needed

    address = opening["addr"]
    problem, hint = f"cannot listen at {_text(address)}", "See the lines above."
    try:  # gunicorn has logged the reason, and not kept it
        close_sockets([opening["sock_type"](address, opening["conf"], opening["log"])])
    except OSError as error:
        problem += f": {error.strerror or error}"
        hint = bind_hint(error, address if isinstance(address, str) else "") or hint
    except ValueError as error:  # a file has appeared at the path of the socket
        problem += f": {error}"
    return CannotListenError(problem, option="bind", where=where, hint=hint)


def _text(address: tuple[str, int] | str) -> str:
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
