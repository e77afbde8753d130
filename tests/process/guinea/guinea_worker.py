"""Worker classes as third parties write them."""

import io
import os
import sys

from gunicorn.workers.base import Worker
from gunicorn.workers.ggevent import GeventWorker


class PlainWorker(Worker):
    """The least that gunicorn asks for: it answers each connection with what the application gives, one by one."""

    def init_process(self):
        sys.stderr.write(
            f"pid {os.getpid()} is set up; settings imported: {'guinea_settings' in sys.modules}\n"
        )
        super().init_process()

    def run(self):
        (listener,) = self.sockets
        listener.settimeout(0.5)
        while self.alive:
            self.notify()
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(5.0)
                self.answer(client)

    def answer(self, client):
        line = client.recv(65536).partition(b"\r\n")[0].decode()
        head = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": line.split(" ")[1],
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.input": io.BytesIO(),
            "wsgi.url_scheme": "http",
        }
        body = b"".join(self.wsgi(environ, lambda status, headers: head.append((status, headers))))
        ((status, headers),) = head
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)


class PatchingWorker(GeventWorker):
    """A class with a patch of its own, as those have that adapt a driver to gevent."""

    def patch(self):
        super().patch()
        os.environ["GUINEA_PATCHED"] = "1"
