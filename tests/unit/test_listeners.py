"""Why an address cannot be used; and at its end the arbiter removes the socket files that it has made, and no others."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.sock import UnixSocket

from django_workerguard.arbiter.bind_hint import bind_hint
from django_workerguard.errors import CannotListenError
from django_workerguard.server.listeners import _cannot_listen, close_listeners, socket_files


class Listener:
    """gunicorn's listener, as far as it is used."""

    def __init__(self, path: Path) -> None:
        self.cfg_addr = str(path)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.cfg_addr)

    def close(self) -> None:
        self.sock.close()


def replaced_by_another_server(path: Path) -> None:
    path.unlink()
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))
    other.close()


def replaced_by_a_file(path: Path) -> None:
    path.unlink()
    path.write_text("precious")


def replaced_by_a_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize(
    ("change", "remains"),
    [
        (lambda path: None, False),
        (Path.unlink, False),
        (replaced_by_another_server, True),
        (replaced_by_a_file, True),
        (replaced_by_a_link, True),
    ],
    ids=["untouched", "gone", "another server's", "a file", "a link"],
)
def test_what_the_arbiter_did_not_make_stays(change, remains, tmp_path):
    path = tmp_path / "http.sock"
    listener = Listener(path)
    files = socket_files([listener])
    change(path)
    close_listeners([listener], files)
    assert path.exists() is remains
    assert listener.sock.fileno() == -1


def test_an_address_without_a_file_is_none():
    class TCP:
        cfg_addr = ("127.0.0.1", 80)

    class Abstract:
        cfg_addr = "\0workerguard"

    assert socket_files([TCP(), Abstract()]) == {}


def cannot_listen(path: Path) -> CannotListenError:
    """Return the error for an address that gunicorn has tried in vain."""
    conf = SimpleNamespace(reuse_port=False, umask=0, uid=os.geteuid(), gid=os.getegid(), backlog=1)
    opening = {"addr": str(path), "sock_type": UnixSocket, "conf": conf, "log": None}
    return _cannot_listen(opening, "--bind on the command line")


def test_a_file_that_appears_at_the_path_of_a_socket_is_named(tmp_path):
    path = tmp_path / "http.sock"
    path.write_text("precious")
    assert f"cannot listen at unix:{path}: '{path}' is not a socket" in str(cannot_listen(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("error", "path", "hint"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, ""),
            "",
            "The host must be a name or an address of this machine.",
        ),
        (OSError(errno.EADDRNOTAVAIL, ""), "", "The host must be a name or an address of this machine."),
        (OSError(errno.EADDRINUSE, ""), "", "Another server may be listening there."),
        (OSError(errno.ENOENT, ""), "/a/b.sock", "Create the directory /a"),
        (OSError(errno.EPERM, ""), "/a/b.sock", "write to the directory /a"),
        (OSError(errno.EROFS, ""), "/a/b.sock", "write to the directory /a"),
        (OSError(errno.EACCES, "", "/a/b.sock"), "/a/b.sock", "write to the directory /a"),
        (OSError(errno.EPERM, "", "/a/b.sock"), "/a/b.sock", "The socket's file cannot be removed"),
        (OSError(errno.EACCES, ""), "", "Choose a port above 1023"),
    ],
)
def test_the_hint_is_for_the_reason(error, path, hint):
    assert hint in bind_hint(error, path)


def test_a_rare_reason_has_no_hint():
    assert bind_hint(OSError(errno.EIO, ""), "/a/b.sock") is None
