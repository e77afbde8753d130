"""The certificate belongs to the load: one that cannot be used changes nothing, at a start and at a reload."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from tests.process.commands import order

pytestmark = pytest.mark.needs("openssl")


REQUEST = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")


def certify(directory: Path, name: str) -> None:
    """Make a certificate for a name, and its key."""
    subprocess.run(
        [*REQUEST, "-subj", f"/CN={name}", "-keyout", directory / "site.key", "-out", directory / "site.pem"],
        check=True,
        capture_output=True,
    )


def shown(server) -> str:
    """Return the certificate that the server shows, as text. Raises OSError where it shows none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(20)
        plain.connect(str(server.socket_path))
        with context.wrap_socket(plain) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            certificate = client.getpeercert(binary_form=True)
            assert certificate is not None
            return ssl.DER_cert_to_PEM_cert(certificate)


def files(directory: Path) -> tuple[str, ...]:
    return ("--", "--certfile", str(directory / "site.pem"), "--keyfile", str(directory / "site.key"))


def test_a_key_that_does_not_fit_freezes_the_reload_and_the_old_one_serves_on(worker_class, serve, tmp_path):
    certify(tmp_path, "one")
    server = serve("-k", worker_class, *files(tmp_path))
    server.wait_ready()
    before, pids = shown(server), server.pids()
    key = (tmp_path / "site.key").read_bytes()
    certify(tmp_path, "two")
    fitting = (tmp_path / "site.key").read_bytes()
    (tmp_path / "site.key").write_bytes(key)
    outcome = order(server, "reload", "--wait")
    assert outcome.returncode == ExitCode.LOAD_FAILED
    assert "step certificate" in outcome.stderr
    server.wait("frozen", lambda status: status["arbiter"]["frozen"])
    assert [shown(server) for _ in range(6)] == [before] * 6
    assert server.pids() == pids

    (tmp_path / "site.key").write_bytes(fitting)
    server.wait_event("reloaded")
    assert {shown(server) for _ in range(6)} == {(tmp_path / "site.pem").read_text()}


def test_a_start_with_a_key_that_does_not_fit_says_so(serve, tmp_path):
    certify(tmp_path, "one")
    key = (tmp_path / "site.key").read_bytes()
    certify(tmp_path, "two")
    (tmp_path / "site.key").write_bytes(key)
    server = serve("--load-retries", "1", *files(tmp_path))
    assert server.wait_exit() == ExitCode.LOAD_FAILED
    assert "the load failed in step certificate: SSLError" in server.log
