"""What is used of gunicorn: fails when a signature, or the code around it, changes."""

from __future__ import annotations

import _thread
import inspect
import logging
import re
import signal
from types import SimpleNamespace

import gunicorn.workers.base
import pytest
import uvicorn
from gunicorn import sock, util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.body import LengthReader
from gunicorn.workers import gthread, sync
from gunicorn.workers.base import Worker
from gunicorn.workers.gasgi import ASGIWorker
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker
from uvicorn import Server
from uvicorn_worker import UvicornWorker

from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.errors import ConfigurationError
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.server import gunicorn_contract
from django_workerguard.server.arbiter import GuardedArbiter
from django_workerguard.server.signals import Signals
from django_workerguard.server.workers.mixin import ASGI_CLASSES, GuardMixin, guarded_class, is_asgi
from django_workerguard.server.workers.stand_in import StandIn
from django_workerguard.worker.seat_handle import SeatBeat

# what is not gunicorn's, or not looked at when the server starts
OTHERS = {
    UvicornWorker: {"_serve": "(self)"},
    Server: {"serve": "(self, sockets=None)", "shutdown": "(self, sockets=None)"},
}
CASES = [(cls, name, expected) for cls, methods in OTHERS.items() for name, expected in methods.items()]


@pytest.mark.parametrize(
    ("cls", "name", "expected"), CASES, ids=lambda value: getattr(value, "__name__", str(value))[:30]
)
def test_signatures(cls, name, expected):
    assert gunicorn_contract._signature(getattr(cls, name)) == expected


@pytest.mark.parametrize("worker_class", [Worker, SyncWorker, ThreadWorker, ASGIWorker, UvicornWorker])
def test_gunicorn_is_as_the_guard_leans_on_it(worker_class):
    assert list(gunicorn_contract.differences(worker_class)) == []


def test_every_method_of_the_contract_is_looked_at(monkeypatch):
    """With any single entry wrong, the check finds it."""
    for place, methods in {**gunicorn_contract.SIGNATURES, **gunicorn_contract.SIGNATURES_OF_WORKERS}.items():
        for method in methods:
            wrong = {place: {method: "(self, wrong)"}, f"{place}X": {}}
            monkeypatch.setattr(gunicorn_contract, "SIGNATURES", wrong)
            found = list(gunicorn_contract.differences(Worker))
            assert [text.partition(" ")[0] for text in found] == [
                f"{place.partition(':')[2]}.{method}",
                place.partition(":")[0],
            ]


def test_a_gunicorn_newer_than_the_tested_ones(monkeypatch):
    assert gunicorn_contract.require_contract(SyncWorker) == []
    monkeypatch.setattr(gunicorn_contract, "version_info", (gunicorn_contract.TESTED + 1, 0, 0))
    (warning,) = gunicorn_contract.require_contract(ThreadWorker)
    assert "newer than the versions" in warning
    monkeypatch.setattr(ThreadWorker, "handle_winch", lambda self: None)
    with pytest.raises(
        ConfigurationError, match=r"ThreadWorker.handle_winch takes \(self\), not \(self, sig, fname\)"
    ):
        gunicorn_contract.require_contract(ThreadWorker)
    assert len(gunicorn_contract.require_contract(SyncWorker)) == 1, "a class that is not used does not count"


def test_a_logger_has_the_handlers_that_json_is_written_by():
    log = Logger(Config())
    assert log.error_log.name == "gunicorn.error"
    assert log.access_log.name == "gunicorn.access"


def test_uvicorns_server_tells_of_its_connections():
    server = Server(uvicorn.Config(lambda: None))
    assert {"connections", "tasks", "default_headers"} <= vars(server.server_state).keys()
    assert {"callback_notify", "timeout_keep_alive"} <= vars(server.config).keys()
    assert hasattr(server, "force_exit")


def test_gunicorns_own_signals_are_all_handled_by_the_guard():
    """What gunicorn does about a signal by itself would go past the policy; SIGWINCH is about a daemon's workers."""
    board = Board.create(Layout(seats=1, slots=1), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=1)
    signals = Signals(
        SimpleNamespace(reap_dirty_arbiter=None),
        tracker,
        None,
        SimpleNamespace(begin=None),
        None,
        hand_over_monitor=None,
        clock=None,
        handover_fd=-1,
        socket_files={},
    )
    gunicorns = {
        number
        for number in Arbiter.SIGNALS
        if hasattr(Arbiter, f"handle_{signal.Signals(number).name[3:].lower()}")
    }
    assert gunicorns - signals.handlers.keys() == {signal.SIGWINCH}


def test_no_exit_code_of_a_worker_halts_the_server():
    assert GuardedArbiter.WORKER_BOOT_ERROR > 255
    assert GuardedArbiter.APP_LOAD_ERROR > 255


def test_a_heartbeat_has_the_interface_of_gunicorns():
    used = {name for name in vars(gunicorn.workers.base.WorkerTmp) if not name.startswith("_")}
    assert used <= set(dir(SeatBeat))


def test_worker_classes_are_known_by_their_names():
    assert {cls.__name__ for cls in (ASGIWorker, UvicornWorker)} == set(ASGI_CLASSES)
    assert is_asgi(guarded_class(ASGIWorker))
    assert not is_asgi(StandIn)


def test_a_guarded_class_is_not_guarded_again():
    once = guarded_class(ThreadWorker)
    assert issubclass(once, GuardMixin)
    assert guarded_class(once) is once


def test_the_mixin_hides_no_attribute_of_a_worker_class_by_accident():
    meant = {"load_wsgi", "run", "notify", "handle_abort", "handle_abort_signal"}
    for cls in (Worker, ThreadWorker, ASGIWorker, UvicornWorker):
        instance_names = {
            part.split("=")[0].split(".")[0].strip()
            for part in inspect.getsource(cls.__init__).split("self.")[1:]
        }
        ours = {name for name in vars(GuardMixin) if not name.startswith("__")}
        assert not ((ours | assigned(GuardMixin)) - meant) & (set(dir(cls)) | instance_names)
    assert not assigned(StandIn) & set(dir(ThreadWorker))


def assigned(cls: type) -> set[str]:
    return set(re.findall(r"self\.(\w+) = ", inspect.getsource(cls)))


def test_what_closes_a_connection_is_looked_up_when_it_is_needed():
    """`closing` and `certificate` replace functions of modules: those who call them must not hold the originals."""
    if hasattr(util, "close_graceful"):
        assert str(inspect.signature(util.close_graceful)) == "(sock, timeout=2.0, max_drain=65536)"
        for module in (sync, gthread):
            assert "util.close_graceful(" in inspect.getsource(module)
    for module in (sync, gthread):
        assert "sock.ssl_wrap_socket(" in inspect.getsource(module)
    assert "ssl_context(conf)" in inspect.getsource(sock.ssl_wrap_socket)
    assert "self.cfg.post_request(self, req, environ, resp)" in inspect.getsource(sync)
    assert LengthReader(None, 3).length == 3


def test_a_thread_that_cannot_be_had_keeps_nobody_from_leaving(monkeypatch):
    """The signal worker_retiring is not sent; the requests in hand are finished all the same."""

    def none_left(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none_left)
    worker = GuardMixin()
    worker._announce_leaving_in_thread()
    assert worker._leaving_announced


@pytest.mark.parametrize(
    ("version", "worker_class", "since"),
    [
        ((26, 1, 0), ASGIWorker, "27.0.0"),
        ((27, 0, 0), ASGIWorker, ""),
        ((27, 0, 0), ThreadWorker, "27.0.1"),
        ((27, 0, 1), ThreadWorker, ""),
        ((26, 1, 0), SyncWorker, ""),
    ],
)
def test_an_older_gunicorn_that_loses_requests_is_warned_about(monkeypatch, version, worker_class, since):
    monkeypatch.setattr(gunicorn_contract, "version_info", version)
    warnings = gunicorn_contract.require_contract(worker_class)
    assert [since] * bool(since) == [warning.split("install gunicorn ")[1].split()[0] for warning in warnings]
