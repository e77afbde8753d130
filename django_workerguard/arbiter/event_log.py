"""The event log: each event of the server's life is written once to the log and once to the journal. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django_workerguard.arbiter.causes import cause_of, describe, kind_of_exit, kind_of_failure
from django_workerguard.arbiter.control_socket import Request
from django_workerguard.arbiter.exits import Exit, leave_word
from django_workerguard.arbiter.oom_kills import OOMKills
from django_workerguard.arbiter.rate_limit import RateLimit
from django_workerguard.arbiter.seats import Seats
from django_workerguard.config.output import say
from django_workerguard.config.text import in_megabytes, plain
from django_workerguard.policy.failure import Failure
from django_workerguard.policy.reason import DEPARTURES, Killer, Reason, Rule
from django_workerguard.policy.view import Fleet, Refusal, State, Waiting, Worker
from django_workerguard.probe import cgroup
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.probe.process import is_dying
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.in_hand import InHand, requests_in_hand
from django_workerguard.scoreboard.journal import write_event
from django_workerguard.scoreboard.layout import Cause, Seat
from django_workerguard.scoreboard.tallies import Tallies
from django_workerguard.scoreboard.view_memory import named_most, views_of_seat

# of the control socket's requests, how many are written to the journal in each period: a flood must not wipe the rest
ASKED_MOST, ASKED_PERIOD = 60, 60.0  # requests, seconds
NAMED = 5  # lost requests that one line of the log names; the journal has each
LOADING = (State.LOADING, State.LOADED, State.FAILED)


class EventLog:
    """Writes each event of the server's life to the journal and, once, to gunicorn's error log."""

    def __init__(self, board: Board, log: Any, *, pids: Callable[[], Iterable[int]] = tuple) -> None:
        """``pids`` returns those of the children that are not buried."""
        self._board = board
        self._log = log
        self._written = 0  # events
        self._tallies = Tallies(board)
        self._logged: Failure | None = None  # the failure whose traceback was logged last
        self._repeated = 0  # how often it has come again since
        self._not_spawned: str = ""
        self._oom_kills = OOMKills(
            cgroup.oom_kills, is_dying=lambda: any(map(is_dying, filter(None, pids())))
        )
        self._frozen = False  # as the fleet was at the last comparison
        self._reloading = False  # the same
        self._all_ready = False  # that all workers are ready
        self._requests = RateLimit(ASKED_MOST, ASKED_PERIOD)
        self._scales = RateLimit(ASKED_MOST, ASKED_PERIOD)

    def own_error(self) -> None:
        """Write down the error that is being handled, which is the arbiter's own. There may be no memory even for this."""
        with contextlib.suppress(Exception):
            self._board.words[Header.ERRORS] += 1
            self._log.exception("internal error in the arbiter, which continues")

    def log_to(self, log: Any) -> None:
        """Write to another logger from now on."""
        self._log = log

    def _event(self, event: str, **fields: Any) -> None:
        write_event(
            self._board, {"at": round(time.time(), 6), "event": event, **fields}, number=self._written
        )
        self._written += 1

    def _about(self, event: str, worker: Worker, **fields: Any) -> None:
        self._event(event, slot=worker.slot, pid=worker.pid, generation=worker.generation, **fields)

    def _log_worker(self, level: str, worker: Worker, action: str, text: str, *values: Any) -> None:
        prefix = f"slot={worker.slot} gen={worker.generation} pid={worker.pid}"
        extra = {"action": action, "slot": worker.slot, "generation": worker.generation, "worker": worker.pid}
        cleaned = (plain(value) if isinstance(value, str) else value for value in values)
        getattr(self._log, level)(f"{prefix} {text}", *cleaned, extra=extra)

    # the server

    def introduce(self, **about: Any) -> None:
        """Write which server this is onto the board: name, project, bind, worker_class and others."""
        self._board.write_about({"host": socket.gethostname(), **about})

    def started(self, pid: int, listeners: list[str], target: int) -> None:
        self._event("started", pid=pid, bind=listeners, target=target)

    def halted(self, reason: str, code: int, fleet: Fleet) -> None:
        stop = fleet.stop.reason if fleet.stop else None
        self._event("halted", rule=stop.rule.value if stop else "", reason=reason, exit_code=code)
        if reason:
            failure = fleet.last_failure
            said = failure is not None and failure.message and failure.message in reason
            more = "" if said else str(failure or "")
            why = "; ".join(filter(None, (reason, more)))
            say(f"Error: {why.splitlines()[0]}")
            leave_word(why)

    def gave_up(self, reason: Reason) -> None:
        self._event("gave-up", **_fields(reason))
        self._log.error("Giving up: %s", reason, extra={"action": "gave-up"})

    def stopping(self, *, quick: bool, drain_delay: float) -> None:
        self._event("stopping", quick=quick, drain_delay=drain_delay)
        if drain_delay and not quick:
            self._log.info(
                "Draining: the server continues to serve for %g s, and ready/ answers 503",
                drain_delay,
                extra={"action": "draining"},
            )

    def reloading(self, generation: int, asked_by: str) -> None:
        self._event("reload", generation=generation, by=asked_by)
        self._log.info("Reload: generation %d begins (%s)", generation, asked_by, extra={"action": "reload"})

    def reload_refused(self, refusal: Refusal, asked_by: str) -> None:
        wait = None if refusal.next_try is None else round(refusal.next_try - refusal.at, 3)
        self._event("reload-refused", reason=refusal.reason, by=asked_by, next_try=wait)
        again = "" if wait is None else f" It is tried again in {wait:.1f} s."
        self._log.error(
            "Reload refused, nothing has changed: %s%s",
            plain(refusal.reason),
            again,
            extra={"action": "reload-refused"},
        )

    def scaled(self, target: int, asked_by: str, now: float) -> None:
        self._limited_event("scaled", self._scales, now, target=target, by=asked_by)

    def asked(self, request: Request, refused: str | None, now: float) -> None:
        if request.do == "wake":
            return
        fields: dict[str, Any] = {"by_user": request.user} if request.user else {}
        fields |= {"do": request.do, "by_pid": request.pid, "by_uid": request.uid, "refused": refused}
        self._limited_event("asked", self._requests, now, **fields)

    def _limited_event(self, event: str, limit: RateLimit, now: float, **fields: Any) -> None:
        """Write an event that another process can cause as often as it likes, so that a flood does not wipe the journal."""
        if not limit.take(now):
            return
        if limit.left_out:
            fields["left_out"], limit.left_out = limit.left_out, 0
        self._event(event, **fields)

    def restored(self, path: Path) -> None:
        self._event("restored", path=str(path))
        self._log.warning(
            "%s was removed by another process; the server made it again", path, extra={"action": "restored"}
        )

    def lost(self, path: Path, error: OSError) -> None:
        self._event("lost", path=str(path), reason=error.strerror)
        self._log.error(
            "%s was removed by another process and cannot be made again: %s; commands do not find this server",
            path,
            error.strerror,
            extra={"action": "lost"},
        )

    # workers

    def spawned(self, worker: Worker, reason: Reason | None, *, mold: int | None = None) -> None:
        """Write down a new worker. ``mold``: the pid of the mold that it was forked from, or was itself."""
        self._not_spawned = ""
        self._about("spawned", worker, **_fields(reason), **({"mold": mold} if mold else {}))

    def mold_spawned(self, mold: Worker) -> None:
        self._not_spawned = ""
        self._about("mold-spawned", mold)
        self._log_worker("info", mold, "mold-spawned", "the mold loads the application")

    def _compare_molds(self, before: Fleet, after: Fleet, seats: Seats, now: float) -> Iterator[Failure]:
        for seat, mold in after.molds.items():
            previous = before.molds.get(seat)
            if previous is not None and mold.not_ended and not previous.not_ended:
                yield from self._not_ended(previous, after, seats, now)
            if previous is None or previous.state is mold.state:
                continue
            if mold.state is State.READY:
                took, steps = self._load_of(mold, seats)
                self._about("mold-ready", mold, load_seconds=round(took, 3), steps=steps)
                self._log_worker("info", mold, "mold-ready", "the mold is ready after %.2f s", took)
            elif mold.state is State.UNFIT:
                hazards = [plain(hazard) for hazard in seats.report(seat).get("hazards", [])]
                message = "; ".join(hazards)
                # the mold's seat is another's soon
                error = {"type": "Unfit", "message": message, "hazards": hazards, "at": time.time()}
                self._board.write_last_error(0, error)
                self._about("mold-unfit", mold, hazards=hazards)
                text = "no worker can be forked from the mold: %s"
                self._log_worker("warning", mold, "mold-unfit", text, message)
                yield Failure("Unfit", message)

    def _load_of(self, worker: Worker, seats: Seats) -> tuple[float, str]:
        """Return how long a load took, in seconds, and its steps."""
        spawned, loaded = seats.word(worker.seat, Seat.SPAWNED), seats.word(worker.seat, Seat.LOAD_END)
        steps = seats.report(worker.seat).get("steps", [])
        return max(0.0, (loaded - spawned) / 1e9), ", ".join(
            f"{step['name']} {step['seconds']:.2f}" for step in steps
        )

    def not_spawned(self, slot: int | None, reason: str) -> None:
        """Write down a process that could not be started: in a slot, the mold (0), or the stand-in (None)."""
        self._event("spawn-failed", slot=slot, reason=reason)
        if slot is not None:
            self._board.write_last_error(slot, {"type": "spawn-failed", "message": reason, "at": time.time()})
        if reason != self._not_spawned:
            place = "stand-in:" if slot is None else f"slot={slot}" if slot else "mold:"
            text = "%s no process can be started: %s; it is retried after a back-off"
            self._log.error(text, place, reason, extra={"action": "spawn-failed"})
        self._not_spawned = reason

    def not_forked(self, slot: int, reason: str) -> None:
        """Write down a worker that its mold could not fork, which is no failure of the slot's."""
        self._event("not-forked", slot=slot, reason=reason)
        text = "slot=%d the mold has not forked a worker: %s"
        self._log.warning(text, slot, reason, extra={"action": "not-forked", "slot": slot})

    def no_room(self, slot: int, waiting: Waiting, margin: int, now: float) -> None:
        """Write down a slot whose next process waits for memory; slot 0 is the mold."""
        missing, wait = waiting.needed - waiting.left, waiting.next_try - now
        fields = {"needed_bytes": waiting.needed, "available_bytes": waiting.left, "missing_bytes": missing}
        self._event("no-room", slot=slot, **fields, next_try=round(wait, 3))
        place = f"slot={slot}" if slot else "mold:"
        text = (
            "%s no room in memory: a load needs %s, and %s more must stay free (memory-margin), but %s are available "
            "beside the loads in progress; it waits until there is room, and is tried even so in %.1f s"
        )
        sizes = [in_megabytes(size) for size in (waiting.needed - margin, margin, waiting.left)]
        self._log.warning(text, place, *sizes, wait, extra={"action": "no-room", "slot": slot})

    def signal_denied(self, pid: int, error: OSError) -> None:
        self._log.error("cannot signal pid %s: %s", pid, error.strerror)

    def look_for_kills(self, now: float) -> None:
        """Take in what the kernel has killed since the last look."""
        self._oom_kills.update(now)

    def compare(self, before: Fleet, after: Fleet, seats: Seats, now: float) -> list[Failure]:
        """Write down the states that have changed, and return the failures of loads that are among them."""
        failures = list(self._compare_molds(before, after, seats, now))
        self._compare_reload(after, failures[-1] if failures else after.last_failure or before.last_failure)
        for seat, worker in after.workers.items():
            previous = before.workers.get(seat)
            if previous is not None and worker.not_ended and not previous.not_ended:
                failures.extend(self._not_ended(previous, after, seats, now))
            if previous is None or worker.not_ended or previous.state is worker.state:
                continue
            if worker.state is State.READY:
                self._became_ready(worker, seats, after)
            elif worker.state is State.RETIRING:
                self.retired(worker, worker.reason)
            elif worker.state is State.UNLOADED:
                report = seats.report(seat)
                kind = kind_of_failure(cause_of(seats, seat))
                failures.append(self._failed(worker, report.get("error", {}), kind, report))
        return failures

    def _compare_reload(self, fleet: Fleet, failure: Failure | None) -> None:
        if fleet.frozen and not self._frozen:
            failure = failure or Failure("")
            self._event(
                "frozen",
                generation=fleet.generation,
                type=failure.kind,
                message=failure.message,
                step=failure.step,
            )
            self._log.error(
                "Frozen: generation %d cannot load. The previous generation continues to serve, and the load is retried",
                fleet.generation,
                extra={"action": "frozen"},
            )
        elif self._frozen and not fleet.frozen:
            self._event("thawed", generation=fleet.generation)
            self._log.info("No longer frozen", extra={"action": "thawed"})
        if self._reloading and not fleet.reloading:
            self._event("reloaded", generation=fleet.generation, target=fleet.target)
            self._log.info(
                "Reload: every worker is of generation %d", fleet.generation, extra={"action": "reloaded"}
            )
        self._frozen, self._reloading = fleet.frozen, fleet.reloading

    def _became_ready(self, worker: Worker, seats: Seats, fleet: Fleet) -> None:
        took, steps = self._load_of(worker, seats)
        first = fleet.ready == fleet.target and not self._all_ready
        self._about(
            "ready", worker, load_seconds=round(took, 3), ready=fleet.ready, target=fleet.target, steps=steps
        )
        self._log_worker(
            "info", worker, "ready", "ready after %.2f s (%d of %d)", took, fleet.ready, fleet.target
        )
        self._logged, self._repeated = None, 0
        self._tallies.count_load(took)
        if first:
            self._all_ready = True
            self._log.info("All %d workers are ready", fleet.target, extra={"action": "all-ready"})

    def retired(self, worker: Worker | None, reason: Reason | None) -> None:
        if worker is None or reason is None:
            return
        if not worker.is_mold and reason.rule not in DEPARTURES:
            self._tallies.count("recycles", reason.rule)
        fields, views = self._growth(worker, reason)
        self._about("retiring", worker, **_fields(reason), **fields)
        self._log_worker("info", worker, "retiring", "asked to leave: %s%s", str(reason), views)

    def aborted(self, worker: Worker | None, reason: Reason) -> None:
        if worker is not None:
            self._about("aborted", worker, **_fields(reason))
            self._log_worker("critical", worker, "aborted", "aborted: %s", str(reason))

    def killed(self, worker: Worker | None, reason: Reason) -> None:
        if worker is not None:
            fields, views = self._growth(worker, reason)
            self._about("killed", worker, **_fields(reason), **fields)
            self._log_worker("critical", worker, "killed", "killed: %s%s", str(reason), views)

    def _not_ended(self, worker: Worker, after: Fleet, seats: Seats, now: float) -> Iterator[Failure]:
        """Write down a process that counts as ended from now on, as it was before, and yield the failure of its load."""
        self._about("not-ended", worker, **_fields(worker.reason))
        text = "killed, but the kernel has not ended it: it hangs in a read, is frozen or is traced; it counts as ended"
        self._log_worker("error", worker, "not-ended", text)
        end = Exit(None, signal.SIGKILL)
        if worker.state in LOADING:
            yield self._exited_loading(worker, end, "", seats, now)[1]
            self.next_try(after, worker, now)
        elif worker.aborted is not None or worker.state is not State.RETIRING:
            self._board.write_last_error(worker.slot, describe(worker, end, "", None, Killer.ARBITER))

    def _growth(self, worker: Worker, reason: Reason) -> tuple[dict[str, Any], str]:
        """Return which views have kept the most memory of a worker that is too large: for the journal and for the log."""
        if reason.rule not in (Rule.RELOAD_ON_RSS, Rule.EVIL_RELOAD_ON_RSS):
            return {}, ""
        named = named_most(views_of_seat(self._board, worker.seat))
        return ({"views": named}, f"; most was kept by {', '.join(named)}") if named else ({}, "")

    def exited(
        self, worker: Worker, end: Exit, dump: str, seats: Seats, *, now: float
    ) -> tuple[Cause, Failure | None]:
        """Write down a process that is gone; return of what kind the cause was, and the failure of a load."""
        if worker.state in LOADING:
            return self._exited_loading(worker, end, dump, seats, now)
        killer = self._killer(worker, end, now)
        kind = kind_of_exit(worker, end, killer)
        threads = seats.report(worker.seat).get("threads")  # that the process did not wait for
        leaving = worker.state is State.RETIRING
        if not worker.not_ended and (worker.aborted is not None or (not end.clean and not leaving)):
            self._board.write_last_error(worker.slot, describe(worker, end, dump, None, killer))
        # what may fail comes before: it is tried again, and counted once
        self._tallies.count("exits", kind)
        if kind == Rule.EVIL_RELOAD_ON_RSS:
            self._tallies.count("recycles", kind)
        self._lost_requests(worker, kind)
        self._about(
            "exited",
            worker,
            end=str(end),
            by=killer.value if killer else "",
            **_fields(worker.reason),
            state=worker.state.value,
            lived=round(now - worker.spawned, 3),
            requests=worker.requests,
            errors_5xx=worker.errors,
            rss_bytes=worker.rss,
            **({"threads": threads} if threads else {}),
        )
        level = "info" if end.clean or (leaving and worker.aborted is None) else "error"
        why = str(worker.reason) if worker.reason else (killer.text if killer else "")
        self._log_worker(level, worker, "exited", "ended: %s%s", end, f" ({why})" if why else "")
        if dump:
            self._log_worker("error", worker, "stacks", "its stacks at the end:\n%s", dump)
        return Cause.TRANSIENT, None

    def _lost_requests(self, worker: Worker, cause: str) -> None:
        """Write down each request that a process had in hand when it ended."""
        now = monotonic_ns()
        lost = requests_in_hand(self._board, worker.seat)
        for request in lost:
            self._tallies.count("requests_lost", cause)
            fields = {"path": request.path, "view": request.view, "age": round(request.age(now), 3)}
            self._about("request-lost", worker, method=request.method, **fields, cause=cause)
        if lost:
            named = ", ".join(f"{one.target} after {one.age(now):.1f} s" for one in lost[:NAMED])
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            self._log_worker("error", worker, "requests-lost", "lost with it: %s%s", named, more)

    def slow_request(
        self, worker: Worker, request: InHand, *, frames: Sequence[str], short: str, left_out: int
    ) -> None:
        """Write down a request that has run for long, with its stack. ``left_out``: such requests without a stack."""
        age = request.age(monotonic_ns())
        fields = {"path": request.path, "view": request.view, "age": round(age, 3)}
        more = {"left_out": left_out} if left_out else {}
        self._about("slow-request", worker, method=request.method, **fields, stack=short, **more)
        others = f" ({left_out} more slow requests are left out)" if left_out else ""
        stack = "\n".join(frames) or "its stack is not known"
        text = "%s has run for %.1f s%s:\n%s"
        self._log_worker("warning", worker, "slow-request", text, request.target, age, others, stack)

    def _exited_loading(
        self, worker: Worker, end: Exit, dump: str, seats: Seats, now: float
    ) -> tuple[Cause, Failure]:
        report = seats.report(worker.seat)
        # what an aborted worker reports only tells how its load was interrupted
        if "error" in report and worker.aborted is None:
            cause = cause_of(seats, worker.seat)
            return cause, self._failed(
                worker, report["error"], kind_of_failure(cause), report, has_ended=True
            )
        killer = self._killer(worker, end, now)
        kind = (
            "timeout"
            if worker.aborted is not None
            else "out-of-memory"
            if killer is Killer.OUT_OF_MEMORY
            else "died"
        )
        stacks = dump or report.get("error", {}).get("traceback", "")
        error = describe(worker, end, stacks, report.get("step"), killer)
        failure = self._failed(worker, error, kind, report, has_ended=True)
        cause = Cause.TRANSIENT if worker.aborted is not None or end.transient else Cause.NONE
        return cause | (Cause.MEMORY if killer is Killer.OUT_OF_MEMORY else Cause.NONE), failure

    def _killer(self, worker: Worker, end: Exit, now: float) -> Killer | None:
        """Say which side sent a SIGKILL: the kernel, out of memory, only if its own counter says so."""
        if end.signal != signal.SIGKILL:
            return None
        if worker.aborted is not None or worker.killed is not None:
            return Killer.ARBITER
        return Killer.OUT_OF_MEMORY if self._oom_kills.claim(now) else Killer.UNKNOWN

    def _failed(
        self,
        worker: Worker,
        error: dict[str, Any],
        kind: str,
        report: dict[str, Any],
        *,
        has_ended: bool = False,
    ) -> Failure:
        error = {key: plain(value) if isinstance(value, str) else value for key, value in error.items()}
        # the seat is another's soon, and how far the load got belongs to why it failed
        self._board.write_last_error(worker.slot, error, steps=report.get("steps", []))
        # what may fail comes before: it is tried again, and counted once
        self._tallies.count("load_failures", kind)
        if has_ended:
            self._tallies.count("exits", "load-failed")
        failure = Failure(*(str(error.get(key) or "") for key in ("type", "message", "step", "traceback")))
        self._about("load-failed", worker, type=failure.kind, message=failure.message, step=failure.step)
        if failure == self._logged:
            self._repeated += 1
            text = "the load failed again with the same error (%d times in a row): %s"
            self._log_worker("error", worker, "load-failed", text, self._repeated + 1, failure.kind)
            return failure
        self._logged, self._repeated = failure, 0
        where = f" in step {failure.step}" if failure.step else ""
        text = "the load failed%s: %s: %s\n%s"
        values = (where, failure.kind, failure.message, failure.traceback)
        self._log_worker("error", worker, "load-failed", text, *values)
        return failure

    def next_try(self, fleet: Fleet, gone: Worker, now: float) -> None:
        record = fleet.mold_record if gone.is_mold else fleet.record(gone.slot)
        due = fleet.due(gone.slot)
        if gone.state in LOADING and due > now:
            wait = due - now
            self._about("back-off", gone, seconds=round(wait, 3), failures=record.failures)
            self._log_worker(
                "info",
                gone,
                "back-off",
                "the load is retried: next try in %.1f s (failed loads in a row: %d)",
                wait,
                record.failures,
            )

    # the 503 answers

    def duty(self, fleet: Fleet, seat: int, *, on: bool) -> None:
        who = "stand-in" if seat == fleet.stand_in.seat else "unloaded worker"
        self._event("duty", who=who, seat=seat, on=on)
        if on:
            text = "No worker is loaded: the %s answers 503"
        elif fleet.of(State.READY, State.LOADED):
            text = "A worker is loaded: the %s stops answering"
        else:
            text = "The %s stops answering 503"
        self._log.warning(text, who, extra={"action": "duty"})

    def stand_in_gone(self, end: Exit, *, stopping: bool) -> None:
        self._event("stand-in-exited", end=str(end))
        if not stopping:
            self._log.warning("The stand-in has ended: %s", end, extra={"action": "stand-in-exited"})

    def monitor_ended(self, pid: int, end: Exit, wait: float) -> None:
        """Write down that the monitor's process has ended, and that it is started again in ``wait`` seconds."""
        self._event("monitor-exited", pid=pid, end=str(end), next_try=round(wait, 3))
        text = "the monitor (pid %d) has ended: %s; it is started again in %.1f s"
        self._log.warning(text, pid, end, wait, extra={"action": "monitor-exited"})

    def monitor_not_started(self, reason: str, wait: float) -> None:
        """Write down that the monitor's process could not be started; it is tried again in ``wait`` seconds."""
        self._event("monitor-failed", reason=reason, next_try=round(wait, 3))
        text = "the monitor cannot be started: %s; the start is tried again in %.1f s"
        self._log.error(text, reason, wait, extra={"action": "monitor-failed"})


def _fields(reason: Reason | None) -> dict[str, str]:
    """Return an event's fields of a reason: the rule for programs, the whole of it for people."""
    return {"rule": reason.rule.value, "reason": str(reason)} if reason else {"rule": "", "reason": ""}
