"""At its end the arbiter removes the socket files that it has made, and no others."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from django_workerguard.server.listeners import close_listeners, socket_files


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
