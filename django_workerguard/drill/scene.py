"""The scene of the acts: the servers, the load, and the play of each act. Runs in the drill's process."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_workerguard.config import interpreter
from django_workerguard.drill import cgroup, plain_gunicorn
from django_workerguard.drill.acts import ACTS, CALM, Act, Lengths, SkippedError, Stage
from django_workerguard.drill.advice import Facts
from django_workerguard.drill.client import Load as Clients
from django_workerguard.drill.configuration import Configuration
from django_workerguard.drill.fault import DIRECTORY
from django_workerguard.drill.measure import Ready, Request, Window, always_lost, measure
from django_workerguard.drill.overrides import Overrides, environment, without_flags
from django_workerguard.drill.preparation import (
    CannotRunError,
    Load,
    Start,
)
from django_workerguard.drill.result import Result, Run
from django_workerguard.drill.servers import Guarded, NoCounterpartError, Plain, Server
from django_workerguard.drill.site import Site
from django_workerguard.drill.verdict import NONE, SKIPPED, Promise, Verdict, judge
from django_workerguard.drill.watch import Watch
from django_workerguard.probe.headroom import HeadroomReader
from django_workerguard.values import value_class

NOT_FOUND, BAD_REQUEST, REDIRECTS = 404, 400, range(300, 400)
FIRST_ANSWERS = 3  # requests to each path before the acts
START_PATIENCE = 60.0  # seconds until all workers have to be ready at the start
SCALE_PATIENCE = 15.0  # seconds until workers=auto has chosen
GUARDED, PLAIN = "workerguard", "gunicorn"


@value_class(kw_only=True)
class Wish:
    """What the user wants of the drill."""

    start: Start
    paths: tuple[str, ...] = ()
    acts: tuple[str, ...] = tuple(ACTS)
    read_only: bool = False
    against: bool = False
    clients: int = 4
    lengths: Lengths = field(default_factory=Lengths)


@dataclass
class Played:
    """A run, and what only the advice needs of it."""

    run: Run
    first_answers: list[Request]
    status: dict[str, Any]


@dataclass
class Scene:
    """Everything that the acts need."""

    wish: Wish
    directory: Path
    site: Site
    configuration: Configuration
    load: Load
    made: Overrides
    group: cgroup.MemoryGroup | None = None
    no_group: str = ""
    notes: list[str] = field(default_factory=list)
    paths: tuple[str, ...] = ()
    target: int = 0

    def play_all(self, kind: type[Server], say: Callable[[str], None]) -> Played:
        """Start a server, play the acts on it, and end it."""
        server = self._guarded() if kind is Guarded else self._plain()
        try:
            say(f"starting {server.name}")
            self._start(server)
            first = self._first_answers(server) if kind is Guarded else []
            results: list[Result] = []
            requests: list[Request] = []
            ready: list[Ready] = []
            events: list[dict[str, Any]] = []
            status: dict[str, Any] = {}
            for act in (ACTS[name] for name in ACTS if name in self.wish.acts):
                say(f"{server.name}: {act.name}: {act.title}")
                if server.has_ended:
                    server.end()
                    self._start(server)
                elif isinstance(server, Guarded):  # an act that has failed is not to fail the next one
                    _wait(server, lambda: server.ready_count() >= self.target, self.wish.lengths.patience)
                result, sent, changes = self._play(act, server)
                results.append(result)
                requests += sent
                ready += changes
                if not server.has_ended:
                    status = server.status()
                    events = _joined(events, server.events())
            run = Run(
                server=server.name,
                target=self.target,
                results=tuple(results),
                requests=requests,
                ready=ready,
                events=events,
            )
            return Played(run, first, status)
        finally:
            server.end()

    def facts(self, played: Played) -> Facts:
        """Return what the advice is made of."""
        slots = played.status.get("slots", ())
        calm = next((one.measures for one in played.run.results if one.act == CALM), None)
        loads = [slot["load_seconds"] for slot in slots if slot["load_seconds"]]
        first = {one.path: one for one in reversed(played.first_answers)}
        headroom = HeadroomReader().read()
        mold = played.status.get("mold") or {}
        return Facts(
            target=self.target,
            fits_mold=self.load.fits_mold,
            hazards=self.load.hazards,
            load_seconds=max([self.load.seconds, *loads]),
            worker_bytes=max((slot["rss_bytes"] for slot in slots), default=0),
            mold_bytes=mold.get("rss_bytes", 0),
            memory_bytes=headroom.limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            free_bytes=headroom.free,
            paths=self.paths,
            first_seconds=max((one.seconds for one in first.values()), default=None),
            median_seconds=calm.p50 if calm else None,
        )

    @property
    def _tls(self) -> bool:
        return bool(self.configuration["certfile"].text or self.configuration["keyfile"].text)

    @property
    def _environ(self) -> dict[str, str]:
        own = {DIRECTORY: str(self.directory / "faults")}
        return {**environment(self.wish.start.environ, self.made), **own}

    def _guarded(self) -> Guarded:
        start = self.wish.start
        command = start.command(
            self.site,
            guard={**start.guard, **self.made.guard},
            server={**start.server, "bind": [self.made.bind]},
            passed_on=[*without_flags(start.passed_on), *self.made.passed_on],
        )
        prefix = self.group.prefix() if self.group else ()
        return Guarded(GUARDED, [*prefix, *command], self._environ, start.directory, self.directory)

    def _plain(self) -> Plain:
        start = self.wish.start
        code = self.directory / "site"
        code.mkdir()
        (code / f"{plain_gunicorn.MODULE}.py").write_text(
            plain_gunicorn.site_module(self.site.applications or {}, self.configuration)
        )
        conf = self.directory / "gunicorn.conf.py"
        conf.write_text(
            plain_gunicorn.conf_file(
                self.configuration, self.directory, workers=self.target, user_file=self._conf_file()
            )
        )
        python = [sys.executable, *interpreter.options()]
        command = [*python, "-m", "gunicorn", "-c", str(conf), f"{plain_gunicorn.MODULE}:application"]
        project = os.path.dirname(start.entry) if start.entry else start.directory
        path = (str(code), project, start.pythonpath, self._environ.get("PYTHONPATH", ""))
        environ = {
            **self._environ,
            "DJANGO_SETTINGS_MODULE": self.site.module,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }
        environ.pop("GUNICORN_CMD_ARGS", None)  # stronger than the file, and copied into it
        prefix = self.group.prefix() if self.group else ()
        return Plain(PLAIN, [*prefix, *command], environ, start.directory, self.directory, self.target)

    def _conf_file(self) -> str:
        start = self.wish.start
        named = start.server.get("config") or start.environ.get("WORKERGUARD_CONFIG")
        if named:
            return os.path.join(start.directory, str(named).removeprefix("file:"))
        for directory in (start.directory, os.path.dirname(start.entry)):
            path = os.path.join(directory, "gunicorn.conf.py")
            if os.path.exists(path):
                return path
        return ""

    def _start(self, server: Server) -> None:
        """Start a server and wait until all workers are ready. Raises CannotRunError."""
        (self.directory / "faults" / "fault").unlink(missing_ok=True)
        server.start()
        patience = max(START_PATIENCE, self.wish.lengths.patience)

        def is_ready() -> bool:
            return 0 < server.target <= server.ready_count()

        if not _wait(server, is_ready, patience):
            raise CannotRunError(
                f"{server.name} has not become ready. Its log ends with:\n{server.last_words()}"
            )
        if isinstance(server, Guarded) and self.configuration["workers"].where.startswith("auto"):
            _wait(server, lambda: any(one["event"] == "scaled" for one in server.events()), SCALE_PATIENCE)
            _wait(server, is_ready, patience)
        self.target = server.target

    def _first_answers(self, server: Server) -> list[Request]:
        """Ask each path a few times, and choose those that can be judged. Raises CannotRunError if there are none."""
        asked = self.wish.paths or self.configuration.words("warmup-path") or ("/",)
        clients = Clients(server.socket, asked, self.site.headers, clients=0, tls=self._tls)
        answers = [clients.ask(path) for path in asked for _ in range(FIRST_ANSWERS)]
        lost = always_lost(answers)
        self.paths = tuple(path for path in dict.fromkeys(asked) if path not in lost)
        for path, reason in lost.items():
            self.notes.append(f"{path} is left out: it never answers without any fault either ({reason})")
        if not self.paths:
            reasons = ", ".join(f"{path}: {reason}" for path, reason in lost.items())
            raise CannotRunError(
                f"the site answers no path of the drill without any fault either ({reasons}), so nothing could be "
                f"judged. Name another path with --path. The server's log ends with:\n{server.last_words()}"
            )
        for answer in {one.path: one for one in answers if one.path in self.paths}.values():
            self._look_at(answer)
        return [one for one in answers if one.path in self.paths]

    def _look_at(self, answer: Request) -> None:
        if answer.status == BAD_REQUEST and not self.site.allowed_hosts:
            raise CannotRunError(
                f"the site answers {answer.path} with 400: ALLOWED_HOSTS is empty (set in {self.site.module}), so it "
                "answers nothing. Name its host there."
            )
        if answer.status == NOT_FOUND and self.wish.paths:
            raise CannotRunError(
                f"the path {answer.path} does not exist: the site answers 404 (set in --path)"
            )
        if answer.status == NOT_FOUND:
            self.notes.append(
                f"{answer.path} answers 404: name a path that shows more of the site with --path"
            )
        elif answer.status in REDIRECTS:
            self.notes.append(
                f"{answer.path} answers with a redirect ({answer.status}), which counts as an answer"
            )

    def _play(self, act: Act, server: Server) -> tuple[Result, list[Request], list[Ready]]:
        lengths = self.wish.lengths
        stage = Stage(server, self.directory / "faults", lengths, self.group, self.no_group)
        skipped = ""
        begin = time.time()
        load = Clients(server.socket, self.paths, self.site.headers, clients=self.wish.clients, tls=self._tls)
        with Watch(server.ready_count) as watch, load:
            time.sleep(lengths.before)
            try:
                act.play(stage)
            except (SkippedError, NoCounterpartError) as error:
                skipped = str(error)
            except OSError as error:
                stage.failures.append(f"the server cannot be asked: {error.strerror or error}")
            finally:
                stage.repair()
                if self.group is not None:
                    with contextlib.suppress(OSError):
                        self.group.limit(None)
            if not skipped:
                time.sleep(lengths.after)
            end = time.time()
        requests, ready = load.requests, watch.changes
        window = None
        if not skipped:
            window = Window(
                act=act.name,
                begin=begin,
                fault=stage.fault or begin,
                end=end,
                back=stage.back,
                kills=tuple(stage.kills),
            )
        return (
            self._result(act, stage, window, skipped=skipped, requests=requests, ready=ready),
            requests,
            ready,
        )

    def _result(
        self,
        act: Act,
        stage: Stage,
        window: Window | None,
        *,
        skipped: str,
        requests: Sequence[Request],
        ready: Sequence[Ready],
    ) -> Result:
        if window is None:
            return Result(act=act.name, title=act.title, verdict=Verdict(SKIPPED, (skipped,)))
        measures = measure(window, requests, ready)
        has_fault = act.name != CALM
        may_drain = act.is_planned and has_fault and self.configuration["surge"].text == "0"
        promise = Promise(target=self.target, missing=1 if may_drain else act.missing, has_fault=has_fault)
        verdict = judge(promise, measures, tuple(stage.failures))
        notes = tuple(stage.notes)
        if stage.server.name == PLAIN:
            notes, verdict = (*notes, *verdict.reasons), Verdict(NONE)
        return Result(
            act=act.name, title=act.title, verdict=verdict, window=window, measures=measures, notes=notes
        )


def _wait(server: Server, condition: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not server.has_ended and time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _joined(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of both journals: the server may have been started again, with a new journal."""
    known = {(one["at"], one["number"]) for one in before}
    return [*before, *(one for one in now if (one["at"], one["number"]) not in known)]
