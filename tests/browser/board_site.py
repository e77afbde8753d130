"""The dashboard over a board that no arbiter writes, so that a page test needs no server of its own."""

from __future__ import annotations

import socketserver
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.core.wsgi import get_wsgi_application

from django_workerguard.config.options import GuardOptions
from django_workerguard.dashboard import snapshots
from django_workerguard.worker import current
from django_workerguard.worker.current import CurrentWorker
from tests.boards import Fleet

PROMISE = 60  # seconds until a held answer is sent after all


def anybody(request) -> bool:
    return True


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class BoardSite:
    """Serves the dashboard at ``/guard/`` on a port of its own. ``answers`` is cleared to let it hang."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self._django = get_wsgi_application()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0
        self.start()

    def start(self) -> None:
        self._server = make_server(
            "127.0.0.1", self._port, self._answer, server_class=_Server, handler_class=_Handler
        )
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def end(self) -> None:
        self.answers.set()
        self.stop()
        self.forget()

    def _answer(self, environ, start_response):
        self.answers.wait(PROMISE)
        return self._django(environ, start_response)

    @property
    def url(self) -> str:
        return f"http://localhost:{self._port}/guard/"

    def show(self, fleet: Fleet, **options) -> Fleet:
        self.forget()
        rules = {"dashboard_access": f"{__name__}:anybody", "dashboard_actions": f"{__name__}:anybody"}
        worker = CurrentWorker(
            slot=1,
            pid=4701,
            generation=3,
            seat=0,
            board=fleet.board,
            options=GuardOptions(**{**rules, **options}),
        )
        current.set_current_worker(worker)
        return fleet

    @staticmethod
    def forget() -> None:
        current.set_current_worker(None)
        snapshots._html_cache_of.cache_clear()
        snapshots._slot_events.cache_clear()
