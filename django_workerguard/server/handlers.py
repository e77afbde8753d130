"""Signals and requests: what others ask of the arbiter. Runs in the arbiter."""

from __future__ import annotations

import os
import signal
from typing import Any

from django_workerguard.errors import ExitCode
from django_workerguard.policy import message as m
from django_workerguard.server.control import Request


class Handlers:
    """The arbiter's part that turns what is asked into messages to the fleet."""

    # the arbiter, as far as it is leaned on
    cfg: Any
    log: Any
    board: Any
    policy: Any
    num_workers: int
    dirty_arbiter_pid: int
    reap_dirty_arbiter: Any
    kill_dirty_arbiter: Any
    reexec: Any
    _fleet: Any
    _clock: Any
    _chronicle: Any
    _control: Any
    _nursery: Any
    _tell: Any

    def handle_chld(self) -> None:
        """Children are reaped at every tick."""
        self.reap_dirty_arbiter()

    handle_cld = handle_chld

    def handle_hup(self) -> None:
        """Start a new generation: every worker is replaced by one with the code as it is now."""
        self._new_generation("SIGHUP")

    def _new_generation(self, asked_by: str) -> None:
        self._tell(m.GenerationStarted(self._clock()))
        self._chronicle.reloading(self._fleet.generation, asked_by)
        self._hook("on_reload")

    def _hook(self, name: str, *arguments: Any) -> None:
        """Run one of the user's hooks; what it raises costs nobody else anything."""
        try:
            getattr(self.cfg, name)(self, *arguments)
        except Exception:
            self.log.exception("Exception in %s hook", name)

    def handle_term(self) -> None:
        self._stop(quick=False)

    def handle_int(self) -> None:
        self._stop(quick=True)

    handle_quit = handle_int

    def _stop(self, *, quick: bool) -> None:
        again = self._fleet.stop is not None
        if again and not quick:
            return
        self._tell(m.StopAsked(self._clock(), quick or again))
        self._chronicle.stopping(quick=quick, drain_delay=self.policy.drain_delay)

    def handle_ttin(self) -> None:
        self._scale(self._fleet.target + 1, "SIGTTIN")

    def handle_ttou(self) -> None:
        self._scale(self._fleet.target - 1, "SIGTTOU")

    def _scale(self, target: int, asked_by: str) -> str | None:
        """Change the target; return why not."""
        if not 1 <= target <= self.board.layout.slots:
            refused = f"the target stays {self._fleet.target}: it can be 1 to {self.board.layout.slots}"
            self.log.warning("%s (%s)", refused, asked_by)
            return refused
        self._tell(m.TargetChanged(target))
        try:
            self.num_workers = target
        except Exception:
            self.log.exception("Exception in nworkers_changed hook")
        self._chronicle.scaled(target, asked_by)
        return None

    def handle_usr1(self) -> None:
        """Reopen the log files, here and in every worker, each readable for the workers' user first."""
        self.log.reopen_files()
        self._chown_logs()
        self._nursery.signal(signal.SIGUSR1)
        if self.dirty_arbiter_pid:
            self.kill_dirty_arbiter(signal.SIGUSR1)

    def _chown_logs(self) -> None:
        if os.geteuid() != 0 or self.cfg.uid == 0:
            return
        for setting in ("errorlog", "accesslog"):
            path = self.cfg.settings[setting].get()
            if path and path != "-" and os.path.exists(path):
                os.chown(path, self.cfg.uid, self.cfg.gid)

    def handle_usr2(self) -> None:
        arbiter = os.getpid()
        try:
            self.reexec()
        except OSError as error:
            self.log.error("USR2: no second arbiter: %s", error.strerror)
        except BaseException:
            self.log.exception("USR2: no second arbiter")
        finally:
            if os.getpid() != arbiter:  # the child that could not become one
                os._exit(ExitCode.UNEXPECTED)

    def _serve_requests(self) -> None:
        if self._control is None:
            return
        for request in self._control.requests():
            refused = request.refused or self._asked(request)
            self._chronicle.asked(request, refused)
            self._control.answer(request, refused)

    def _asked(self, request: Request) -> str | None:
        """Do what was asked; return why not."""
        match request.do:
            case "wake":
                return None
            case "reload":
                self._new_generation(f"pid {request.pid}, user {request.uid}")
                return None
            case "scale":
                target = request.arguments.get("target")
                return self._scale(target if isinstance(target, int) else 0, f"user {request.uid}")
            case "recycle":
                slot = request.arguments.get("slot")
                if not isinstance(slot, int) or not 1 <= slot <= self._fleet.target:
                    return f"there is no slot {slot}: the slots are 1 to {self._fleet.target}"
                self._tell(m.RecycleAsked(slot, f"recycle by user {request.uid}"))
                return None
            case _:
                return f"{request.do!r} is not known"
