"""Servers that know nothing of the guard."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.components import COMPONENTS
from tests.process.harness import PROJECT, ROOT, UnixConnection


class Plain:
    """A server that knows nothing of the guard."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "plain.sock"
        self.log = directory / "plain.log"

    @contextmanager
    def running(self, command: list[str], environ: dict[str, str], cwd: Path = PROJECT) -> Iterator[None]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=cwd, env={**os.environ, **environ}, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            print(self.log.read_text())

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str]]:
        deadline = time.monotonic() + 30
        while True:
            connection = UnixConnection(self.socket, 10)
            try:
                connection.request(
                    "GET", path, headers={"Host": "localhost", "Connection": "close", **(headers or {})}
                )
                response = connection.getresponse()
                return response.status, {k.lower(): v for k, v in response.getheaders()}
            except (FileNotFoundError, ConnectionError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            finally:
                connection.close()

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return the status and the body of one answer."""
        with contextlib.closing(UnixConnection(self.socket, 20)) as connection:
            connection.request(
                "POST" if body else "GET", path, body, {"Host": "localhost", "Connection": "close"}
            )
            response = connection.getresponse()
            return response.status, response.read()


def environ(tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "guinea_settings",
        "PYTHONPATH": str(ROOT),
        "GUINEA_FAULTS": str(tmp_path / "faults"),
        "GUINEA_FAULTS_ANYWHERE": "1",
        **more,
    }


def uwsgi(socket: Path) -> list[str]:
    program = COMPONENTS["uwsgi"].path() or "uwsgi"
    options = [
        "--master",
        "--lazy-apps",
        "--processes",
        "1",
        "--enable-threads",
        "--die-on-term",
        "--need-app",
    ]
    home = ["--home", sys.prefix] if sys.prefix != sys.base_prefix else []
    where = ["--pythonpath", str(PROJECT), "--pythonpath", str(ROOT), "--module", "guinea_wsgi:application"]
    return [program, "--http-socket", str(socket), *options, *home, *where]


def nginx_conf(directory: Path, location: str, *, user: str = "root", more: str = "") -> Path:
    conf = directory / "nginx.conf"
    conf.write_text(f"""
        {f"user {user};" if os.geteuid() == 0 else ""}
        daemon off;
        pid {directory}/nginx.pid;
        error_log {directory}/nginx-error.log;
        events {{}}
        http {{
            access_log off;
            client_body_temp_path {directory}/body;
            proxy_temp_path {directory}/proxy;
            fastcgi_temp_path {directory}/fastcgi;
            uwsgi_temp_path {directory}/uwsgi;
            scgi_temp_path {directory}/scgi;
            server {{
                listen unix:{directory}/plain.sock;
                location / {{ {location} }}
                {more}
            }}
        }}
    """)
    return conf
