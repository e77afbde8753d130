"""The guard of one of uWSGI's workers: look at the others, decide, act. Runs in uWSGI's workers.

No error of the guard reaches the site: a look catches everything, and logs an error once.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_workerguard.config.options import GuardOptions
from django_workerguard.config.project_path import here
from django_workerguard.contrib.uwsgi.place import Place
from django_workerguard.contrib.uwsgi.publisher import Publisher, count_wanted
from django_workerguard.contrib.uwsgi.server import Server, Shown
from django_workerguard.contrib.uwsgi.zombies import Limits, Record, Sibling, decide, note_end
from django_workerguard.errors import WorkerguardError
from django_workerguard.policy.backoff import seed_of
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.probe.process import parent, start_time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import ServerKind
from django_workerguard.scoreboard.places import server_name

LOOK_EVERY = 1.0  # seconds

logger = logging.getLogger("django_workerguard")


class Guard:
    """Looks at uWSGI's workers; one loaded worker at a time keeps the board and acts.

    ``attended``: looks come every second, from a thread. Otherwise they come with requests only, from any worker, and
    readers do not see the board.
    """

    def __init__(
        self, server: Server, options: GuardOptions, about: Mapping[str, Any], *, attended: bool
    ) -> None:
        self._server = server
        self._master = server.master
        self._attended = attended
        self._quorum = options.min_loaded
        name = server_name(options.name, Path(here()))
        self._about = {
            "host": socket.gethostname(),
            "name": name,
            "project": here(),
            "bind": server.binds,
            "worker_class": "uwsgi",
            **about,
        }
        self._place = Place(name, options.run_dir, self._master)
        self._limits = Limits(
            load_timeout=options.load_timeout,
            load_retry_delay=options.load_retry_delay,
            load_retry_max_delay=options.load_retry_max_delay,
            seed=seed_of(socket.gethostname(), self._master, start_time(self._master)),
        )
        self._publisher: Publisher | None = None
        self._memory: Mapping[int, Record] = {}
        self._looked = 0.0
        self._problem = ""
        os.register_at_fork(after_in_child=self._place.leave_to_parent)

    def board(self) -> Board | None:
        """Return the board for readers in this process; None while there is none."""
        return self._place.board if self._attended else None

    def start_thread(self) -> None:
        """Look every second from now on."""
        threading.Thread(target=self._run, name="workerguard-uwsgi", daemon=True).start()

    def _run(self) -> None:
        owner = os.getpid()
        while os.getpid() == owner:
            time.sleep(LOOK_EVERY)
            self.look()

    def after_request(self, **_: Any) -> None:
        """Look if the latest look of this worker was a second ago. A receiver of Django's ``request_finished``."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self.look()

    def look(self) -> None:
        """Look once. Never raises."""
        try:
            self._look()
        except (OSError, WorkerguardError) as error:
            self._report(str(error), trace=False)
        except Exception as error:
            self._report(repr(error), trace=True)
        else:
            self._problem = ""

    def _report(self, problem: str, *, trace: bool) -> None:
        if problem != self._problem:
            text = "The guard cannot look at uWSGI's workers: %s. The site is not affected; the guard tries again"
            logger.error(text, problem, exc_info=trace)
        self._problem = problem

    def _look(self) -> None:
        workers = self._server.workers()
        me = next((worker for worker in workers if worker.pid == os.getpid()), None)
        if me is None or not me.loaded:
            return
        board = self._place.take(len(workers))
        if board is None:
            self._publisher = None
            return
        try:
            self._keep(board, workers, me)
        finally:
            if not self._attended:
                self._publisher = None
                self._place.release()

    def _keep(self, board: Board, workers: list[Shown], me: Shown) -> None:
        publisher = self._publisher
        if publisher is None or publisher.board is not board:
            publisher = self._begin(board, me, workers)
        now = monotonic_ns() / 1e9
        siblings = [_sibling(worker) for worker in workers]
        decision = decide(siblings, self._memory, now, me=me.id, limits=self._limits)
        self._memory = decision.memory
        publisher.publish(workers, decision)
        zombie = decision.end
        if zombie is not None and board.is_at_its_path() and self._kill(zombie):
            self._memory = note_end(self._memory, zombie, now, limits=self._limits)
            worker = next(worker for worker in workers if worker.id == zombie.id)
            publisher.killed(worker, decision.reasons[zombie.id], self._memory[zombie.id], now)

    def _begin(self, board: Board, me: Shown, workers: list[Shown]) -> Publisher:
        """Go on from what the worker wrote that kept the board before."""
        publisher = Publisher(board)
        kind = ServerKind.WEB if self._attended else ServerKind.UNATTENDED
        publisher.introduce(self._about, kind=kind, quorum=self._quorum)
        if self._attended:
            publisher.kept_by(me, target=count_wanted(workers))
        self._memory = publisher.memory()
        self._publisher = publisher
        return publisher

    def _kill(self, zombie: Sibling) -> bool:
        """End a worker, if it is still the one that was seen. SIGKILL: it serves nothing, and its load may hang in C."""
        seen = {worker.id: _sibling(worker) for worker in self._server.workers()}.get(zombie.id)
        if seen is None or seen.identity != zombie.identity or seen.loaded or not seen.is_there:
            return False
        if parent(zombie.pid) != self._master:
            return False
        os.kill(zombie.pid, signal.SIGKILL)
        return True


def _sibling(worker: Shown) -> Sibling:
    return Sibling(
        id=worker.id,
        pid=worker.pid,
        start=worker.start,
        loaded=worker.loaded,
        requests=worker.requests,
        load_seconds=worker.load_seconds,
        cheap=worker.cheap,
    )
