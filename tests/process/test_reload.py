"""A reload reads settings, configuration and code anew; what cannot be loaded changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.journal import read_events
from tests.journal import least_ready
from tests.process.clients import Load, OneRequest
from tests.process.commands import order
from tests.process.harness import LONG_ENOUGH, TIMEOUT, Faults, Server, Since, wait_whole


def rolled(generation: int):
    return lambda status: all(slot["generation"] == generation for slot in status["slots"])


def is_tried_again(refused: dict[str, Any] | None) -> bool:
    return refused is not None and not refused["needs_restart"]


def wait_settled(server: Server) -> None:
    """Wait until a server is as it was after its start, with the newest code."""
    server.wait(
        "settled",
        lambda status: (
            not status["arbiter"]["frozen"]
            and not is_tried_again(status["arbiter"]["refused_reload"])
            and status["target"] == 2
            and [slot["generation"] for slot in status["slots"]] == [status["arbiter"]["generation"]] * 2
        ),
    )
    wait_whole(server)


def test_reloads_under_load_with_broken_code_change_nothing_and_with_good_code_everything(
    worker_class, serve
):
    server = serve("-k", worker_class, project_copy=True)
    server.wait_ready()
    before = server.pids()
    views = server.project / "guinea_app" / "views.py"
    whole = views.read_text()
    views.write_text("def broken(:")
    with Load(server) as load:
        outcome = order(server, "reload", "--wait")
        server.wait("frozen", lambda status: status["arbiter"]["frozen"])
    assert outcome.returncode == ExitCode.LOAD_FAILED
    assert "SyntaxError" in outcome.stderr
    assert "Traceback" in outcome.stderr
    assert set(load.seen) == {"200"}, load.seen
    assert server.pids() == before
    assert least_ready(server.events()) == 2
    assert "frozen: generation 2 cannot be loaded" in order(server, "status").stdout

    views.write_text(whole)
    server.wait("the mended code", rolled(2))
    server.wait_event("thawed")
    server.wait_event("reloaded")

    views.write_text(whole.replace('f"pid {os.getpid()}\\n"', '"changed\\n"'))
    with Load(server) as load:
        outcome = order(server, "reload", "--wait")
    assert outcome.returncode == ExitCode.OK, outcome
    assert "reload: done" in outcome.stdout
    assert set(load.seen) == {"200"}, load.seen
    assert least_ready(server.events()) == 2
    assert server.get("/").body == "changed\n"


def test_a_second_arbiter_whose_code_cannot_be_loaded_answers_no_request(serve):
    """They share the listeners: the first one has workers, so the second one has nothing to answer 503 for."""
    options = ("--stand-in-after", "200ms", "--need-app", "off", "--load-retries", "1")
    server = serve(*options, project_copy=True)
    server.wait_ready()
    first = server.arbiter
    urls = server.project / "guinea_urls.py"
    whole = urls.read_text()
    urls.write_text("1 / 0\n")
    server.signal(signal.SIGUSR2)
    server.wait(
        "unloaded workers of the second",
        lambda status: (
            status["arbiter"]["pid"] != first
            and [slot["state"] for slot in status["slots"]] == ["unloaded", "unloaded"]
        ),
    )
    assert server.statuses(200) == {200: 200}

    os.kill(first, signal.SIGTERM)
    server._poll("503 is answered", lambda: server.statuses(5) == {503: 5}, 30)
    urls.write_text(whole)
    assert order(server, "reload", "--wait").returncode == ExitCode.OK
    assert server.statuses(10) == {200: 10}


def test_a_first_arbiter_that_has_lost_its_workers_answers_nothing_while_the_second_one_is_ready(serve):
    server = serve("--stand-in-after", "200ms", "--need-app", "off", "--load-retries", "1", project_copy=True)
    server.wait_ready()
    first = server.arbiter
    server.signal(signal.SIGUSR2)
    status = server.wait(
        "the second", lambda status: status["arbiter"]["pid"] != first and status["ready"] == 2
    )
    second = status["arbiter"]["pid"]
    urls = server.project / "guinea_urls.py"
    whole = urls.read_text()
    urls.write_text("1 / 0\n")
    for slot in server.status(first)["slots"]:
        os.kill(slot["pid"], signal.SIGKILL)
    server._poll(
        "unloaded workers of the first",
        lambda: all(slot["state"] == "unloaded" for slot in server.status(first)["slots"]),
        60,
    )
    assert server.statuses(200) == {200: 200}

    os.kill(second, signal.SIGTERM)
    server._poll("the second has ended", lambda: not Path(f"/proc/{second}").exists(), 60)
    server._poll("503 is answered", lambda: server.statuses(5) == {503: 5}, 60)
    urls.write_text(whole)
    assert order(server, "reload", "--wait").returncode == ExitCode.OK
    assert server.statuses(10) == {200: 10}


def test_a_first_arbiter_whose_last_worker_leaves_never_answers_503_beside_a_ready_second_one(serve):
    server = serve(
        "--need-app", "off", "--load-retries", "1", "--", "--worker-class", "sync", project_copy=True
    )
    server.wait_ready()
    first = server.arbiter
    server.signal(signal.SIGUSR2)
    server.wait("the second", lambda status: status["arbiter"]["pid"] != first and status["ready"] == 2)
    requests = [OneRequest(server, "/slow?seconds=8") for _ in range(4)]
    server._poll(
        "a request in each worker",
        lambda: all(slot["in_flight"] for pid in (None, first) for slot in server.status(pid)["slots"]),
        TIMEOUT,
    )
    (server.project / "guinea_urls.py").write_text("1 / 0\n")
    last, other = server.status(first)["slots"]
    os.kill(other["pid"], signal.SIGKILL)
    server._poll("unloaded", lambda: server.status(first)["slots"][1]["state"] == "unloaded", TIMEOUT)
    os.kill(last["pid"], signal.SIGTERM)
    server._poll("the last one leaves", lambda: server.status(first)["ready"] == 0, TIMEOUT)
    for request in requests:
        request.join(30)
    with server.board(first) as board:
        assert not [event for event in read_events(board) if event["event"] == "duty" and event["on"]]


def test_a_changed_number_of_workers_counts_once_the_new_code_has_loaded(serve):
    server = serve(workers=None, project_copy=True)
    server.wait_ready(1)
    (server.project / "gunicorn.conf.py").write_text("workers = 4\n")
    urls = server.project / "guinea_urls.py"
    whole = urls.read_text()
    urls.write_text("1 / 0\n")
    assert order(server, "reload", "--wait").returncode == ExitCode.LOAD_FAILED
    assert server.status()["target"] == 1
    urls.write_text(whole)
    assert order(server, "reload", "--wait").returncode == ExitCode.OK
    server.wait("four workers", lambda status: (status["target"], status["ready"]) == (4, 4))


# a configuration that imports a module of the site's, and a class in a module that ends the process
EXITING = """
import os, guinea_faults
with open(os.path.join(os.path.dirname(__file__), "exiting.py"), "w") as module:
    module.write("raise SystemExit('SECRET is missing')")
{}
"""
WRONG = [  # a file, what is in it, and what is said
    ("gunicorn.conf.py", "timeout = 'soon'\n", "timeout: 'soon' is not a whole number"),
    ("gunicorn.conf.py", "1 / 0\n", "ZeroDivisionError"),
    ("gunicorn.conf.py", "raise SystemExit(3)\n", "SystemExit: 3"),
    (
        "gunicorn.conf.py",
        EXITING.format("worker_class = 'exiting.Worker'"),
        "worker-class: 'exiting.Worker' cannot be imported",
    ),
    ("gunicorn.conf.py", EXITING.format("logger_class = 'exiting.Logger'"), "SystemExit: SECRET is missing"),
    ("gunicorn.conf.py", "user = 65534\n", "user: a reload cannot change it"),
    ("gunicorn.conf.py", "pidfile = 'other.pid'\n", "pidfile: a reload cannot change it"),
    ("gunicorn.conf.py", "preload_app = True\n", "preload-app: it cannot be used here"),
    ("guinea_settings.py", "import a_module_that_does_not_exist\n", "No module named"),
    ("guinea_settings.py", "raise SystemExit(4)\n", "SystemExit: 4"),
    ("guinea_settings.py", "import os\nos._exit(5)\n", "ended without an answer"),
    ("guinea_settings.py", "WORKERGUARD = {'LOAD_RETRYS': 3}\n", "Did you mean 'LOAD_RETRIES'?"),
    ("guinea_settings.py", "WORKERGUARD = {'NAME': 'another'}\n", "name: a reload cannot change it"),
    ("guinea_settings.py", "WORKERGUARD = {'MIN_LOADED': 3}\n", "min-loaded: a quorum of 3"),
    ("guinea_settings.py", "WORKERGUARD = {'SURGE': 900}\n", "do not fit this server"),
    ("guinea_settings.py", "WORKERGUARD = {'SURGE': 9999}\n", "needs more than 1024 seats"),
    (
        "guinea_settings.py",
        "WORKERGUARD = {'RELOAD_ON_RSS': '9' * 20 + 'G'}\n",
        "no larger than a petabyte",
    ),
]


@pytest.mark.timeout(300)
def test_what_is_wrong_changes_nothing(serve, subtests):
    # one after the other, so none is tried again by itself
    site = serve("--load-retry-delay", "1h", "--load-retry-max-delay", "1h", project_copy=True)
    wait_settled(site)
    for file, text, said in WRONG:
        with subtests.test(text):
            assert_refused(site, file, text, said)


@pytest.mark.timeout(600)
def test_reloads_and_commands(serve, faults, subtests):
    """One after the other on a server with a copy of the project, which is settled again after each."""
    site = serve(project_copy=True)
    wait_settled(site)
    for arguments, said in REFUSED.items():
        with subtests.test(" ".join(arguments)):
            outcome = order(site, *arguments)
            assert outcome.returncode == ExitCode.REFUSED
            assert said in outcome.stderr
    for name, part in PARTS.items():
        wait_settled(site)
        with subtests.test(name):
            part(site, faults)
        faults.clear()


REFUSED = {
    ("recycle", "9"): "there is no slot 9: the slots are 1 to 2",
    ("scale", "999"): "the target stays 2: it can be 1 to 16",
}


def assert_refused(site: Server, file: str, text: str, said: str) -> None:
    before = site.pids()
    path = site.project / file
    whole = path.read_text() if path.exists() else ""
    path.write_text(text)
    outcome = order(site, "reload", "--wait")
    path.write_text(whole)
    assert outcome.returncode == ExitCode.REFUSED, outcome
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert site.pids() == before
    assert site.status()["arbiter"]["generation"] == 1
    assert site.statuses(4) == {200: 4}


def a_second_reload_supersedes_the_first(site: Server, faults: Faults) -> None:
    since, before = Since(site), site.pids()
    generation = site.status()["arbiter"]["generation"]
    faults.set("ready", "hang", 1)
    outcome = order(site, "reload", "--wait=1")
    assert outcome.returncode == ExitCode.TIMED_OUT
    assert "the server continues without this command" in outcome.stderr
    stuck = since.wait("spawned", lambda event: event["generation"] == generation + 1)
    site.wait("the fault", lambda _: faults.used_up("ready"))
    site.signal(signal.SIGHUP)
    site.wait("the newest", rolled(generation + 2))
    since.wait("reloaded", lambda event: event["generation"] == generation + 2)
    assert not Path(f"/proc/{stuck['pid']}").exists()
    assert not set(before) & set(site.pids())
    assert least_ready(site.events()) == 2


def a_second_reload_supersedes_one_that_hangs_in_the_settings(site: Server, faults: Faults) -> None:
    since, generation = Since(site), site.status()["arbiter"]["generation"]
    settings = site.project / "guinea_settings.py"
    whole = settings.read_text()
    started = site.project / "started"
    settings.write_text(f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(3600)\n")
    site.signal(signal.SIGHUP)
    site._poll("the settings are being read", started.exists, 60)
    settings.write_text(whole)
    outcome = order(site, "reload", "--wait=50")
    assert outcome.returncode == ExitCode.OK, outcome
    assert since.events("reload-refused") == []
    assert site.status()["arbiter"]["generation"] == generation + 1


def many_reloads_at_once(site: Server, faults: Faults) -> None:
    since = Since(site)
    for _ in range(10):
        site.signal(signal.SIGHUP)
    since.wait("reloaded")
    assert site.statuses(10) == {200: 10}
    assert least_ready(site.events()) == 2


def recycle_by_hand(site: Server, faults: Faults) -> None:
    first, second = site.pids()
    outcome = order(site, "recycle", "2", "--wait")
    assert (outcome.returncode, site.pids()[0]) == (ExitCode.OK, first)
    assert second not in site.pids()
    assert order(site, "recycle", "--all", "--wait").returncode == ExitCode.OK
    assert first not in site.pids()
    assert least_ready(site.events()) == 2
    told = order(site, "explain", "2").stdout
    assert "by-hand: asked by pid" in told


def recycle_with_code_that_cannot_be_loaded(site: Server, faults: Faults) -> None:
    since, before = Since(site), site.pids()
    faults.set("urlconf", "exception")
    outcome = order(site, "recycle", "--all", "--wait")
    assert outcome.returncode == ExitCode.LOAD_FAILED
    assert "RuntimeError" in outcome.stderr
    assert site.pids() == before
    faults.clear()
    since.wait("ready", count=2)  # both are replaced once that is possible


def settings_and_configuration_are_read_anew(site: Server, faults: Faults) -> None:
    conf, settings = site.project / "gunicorn.conf.py", site.project / "guinea_settings.py"
    whole = settings.read_text()
    conf.write_text("workers = 3\ntimeout = 77\n")
    settings.write_text(whole + "WORKERGUARD['MAX_WORKER_LIFETIME'] = '1h'\n")
    # the number of workers is on the command line too, which is stronger
    assert order(site, "reload", "--wait").returncode == ExitCode.OK
    status = site.status()
    assert status["limits"]["max_worker_lifetime"] == 3600
    assert status["target"] == 2
    conf.unlink()
    settings.write_text(whole)
    site.signal(signal.SIGHUP)
    site.wait("the settings as before", lambda status: not status["limits"]["max_worker_lifetime"])


def scale(site: Server, faults: Faults) -> None:
    assert order(site, "scale", "3", "--wait").returncode == ExitCode.OK
    assert site.status()["ready"] == 3
    assert order(site, "scale", "1", "--wait").returncode == ExitCode.OK
    assert len(site.status()["slots"]) == 1
    site.signal(signal.SIGTTIN)


def a_worker_that_dies_while_frozen_is_reported_as_degraded(site: Server, faults: Faults) -> None:
    since, urls = Since(site), site.project / "guinea_urls.py"
    whole = urls.read_text()
    urls.write_text("1 / 0\n")
    assert order(site, "reload", "--wait").returncode == ExitCode.LOAD_FAILED
    os.kill(site.slot(2)["pid"], signal.SIGKILL)
    site.wait("one left", lambda status: status["ready"] == 1)
    since.wait("load-failed", lambda event: event["slot"] == 2)
    assert (
        "slot 2 has no ready worker, because the old code can no longer be loaded"
        in order(site, "status").stdout
    )
    assert site.statuses(10) == {200: 10}
    urls.write_text(whole)


def a_stop_during_a_reload_that_hangs(site: Server, faults: Faults) -> None:
    faults.set("ready", "hang")
    site.signal(signal.SIGHUP)

    def where_it_hangs(status):
        return [(slot["step"], slot["loading_for"] > 0.5) for slot in status["slots"] if slot["loading_for"]]

    site.wait("the fault", lambda status: where_it_hangs(status) == [("app", True)])
    assert site.status()["ready"] == 2
    assert site.stop() == ExitCode.OK
    assert order(site, "reload").returncode == ExitCode.NO_SERVER


# first what must not cost any capacity, according to the whole journal; the stop is the last
PARTS: dict[str, Callable[[Server, Faults], None]] = {
    "a second reload supersedes the first, for which the command waits in vain": a_second_reload_supersedes_the_first,
    "a second reload supersedes one that hangs in the settings": a_second_reload_supersedes_one_that_hangs_in_the_settings,
    "many reloads at once": many_reloads_at_once,
    "recycle by hand": recycle_by_hand,
    "recycle with code that cannot be loaded": recycle_with_code_that_cannot_be_loaded,
    "settings and configuration are read anew": settings_and_configuration_are_read_anew,
    "scale": scale,
    "a worker that dies while frozen is reported as degraded": a_worker_that_dies_while_frozen_is_reported_as_degraded,
    "a stop during a reload that hangs": a_stop_during_a_reload_that_hangs,
}


def test_a_hang_in_the_settings_and_a_target_below_the_quorum_are_refused(serve, subtests):
    server = serve("--load-timeout", LONG_ENOUGH, "--min-loaded", "2", project_copy=True)
    server.wait_ready()
    with subtests.test("a target below the quorum"):
        outcome = order(server, "scale", "1", "--wait")
        assert outcome.returncode == ExitCode.REFUSED
        assert "the target stays 2: the quorum (min-loaded) needs 2 workers" in outcome.stderr
        server.signal(signal.SIGTTOU)
        server.wait_log("(SIGTTOU)")
        assert server.status()["target"] == 2
    with subtests.test("a hang in the settings ends with the load timeout"):
        (server.project / "guinea_settings.py").write_text("import time\ntime.sleep(3600)\n")
        outcome = order(server, "reload", "--wait")
        assert outcome.returncode == ExitCode.REFUSED
        assert "its import did not end within 8 s" in outcome.stderr
        assert server.statuses(4) == {200: 4}


def test_a_refused_reload_is_shown_and_tried_again(serve, subtests):
    """A file is half written when the settings are read, or they cannot be had for another reason that passes."""
    server = serve("--load-retry-max-delay", "1s", project_copy=True, workers=1)
    server.wait_ready()
    pids = server.pids()
    broken = {
        "guinea_settings.py": "WORKERGUARD = {'NEED_APP':",
        "gunicorn.conf.py": "workers =",
    }
    for generation, (name, half) in enumerate(broken.items(), start=2):
        with subtests.test(name):
            path, since = server.project / name, Since(server)
            whole = path.read_text() if path.exists() else ""
            path.write_text(half)
            server.signal(signal.SIGHUP)
            since.wait("reload-refused", count=3)  # again and again
            told = order(server, "status")
            assert "warning: the last reload was refused, and nothing has changed" in told.stdout
            assert "SyntaxError" in told.stdout
            assert "Do not restart before" in order(server, "explain").stdout
            refused = server.status()["arbiter"]["refused_reload"]
            assert (refused["needs_restart"], "SyntaxError" in refused["reason"]) == (False, True)
            first = since.events("reload-refused")[0]
            assert first["at"] < refused["at"] <= time.time()  # it is a later one, which was tried again
            assert (server.pids(), server.status()["arbiter"]["generation"]) == (pids, generation - 1)
            path.write_text(whole)
            reload = since.wait("reload")
            assert (reload["generation"], reload["by"]) == (generation, "retry of a refused reload")
            since.wait("reloaded")
            assert server.status()["arbiter"]["refused_reload"] is None
            pids = server.pids()

    with subtests.test("a reload that needs a restart is not tried again"):
        (server.project / "gunicorn.conf.py").write_text("pidfile = 'other.pid'\n")
        since = Since(server)
        assert order(server, "reload", "--wait").returncode == ExitCode.REFUSED
        server.wait("the board shows it", lambda status: status["arbiter"]["refused_reload"])
        refused = server.status()["arbiter"]["refused_reload"]
        assert (refused["needs_restart"], refused["next_try_in"]) == (True, None)
        assert since.wait("reload-refused")["next_try"] is None
        assert "Restart the server" in order(server, "explain").stdout
        (server.project / "gunicorn.conf.py").unlink()
        assert order(server, "reload", "--wait").returncode == ExitCode.OK
        assert server.status()["arbiter"]["refused_reload"] is None
        assert len(since.events("reload-refused")) == 1


def test_the_retry_of_a_refused_reload_keeps_the_number_that_was_asked_for_meanwhile(serve):
    server = serve("--load-retry-max-delay", "1s", project_copy=True)
    server.wait_ready()
    since, path = Since(server), server.project / "gunicorn.conf.py"
    path.write_text("workers =")
    server.signal(signal.SIGHUP)
    since.wait("reload-refused")
    assert order(server, "scale", "3", "--wait").returncode == ExitCode.OK
    path.unlink()
    since.wait("reloaded")
    server.wait("three are ready", lambda status: (status["target"], status["ready"]) == (3, 3))
    assert order(server, "reload", "--wait").returncode == ExitCode.OK
    assert server.status()["target"] == 2, "a reload that is asked for takes the number of the configuration"


def test_a_load_of_older_code_that_hangs_makes_room_for_a_reload(serve, faults):
    faults.set("ready", "hang")
    server = serve("--load-timeout", "0", "--load-concurrency", "1", project_copy=True)
    server.wait_event("spawned")
    server.wait("it hangs", lambda status: status["slots"][0]["step"] == "app")
    faults.clear()
    outcome = order(server, "reload", "--wait=50")
    assert outcome.returncode == ExitCode.OK, outcome
    assert [slot["generation"] for slot in server.status()["slots"]] == [2, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_settings_that_are_being_read_keep_no_port_from_the_next_server(serve, number):
    server = serve("--load-timeout", "5s", "--bind", "127.0.0.1:0", project_copy=True, workers=1)
    server.wait_ready()
    address = next(one for one in server.status()["bind"] if one.startswith("http://"))
    port = int(address.rpartition(":")[2])
    started = server.project / "started"
    script = f"import pathlib, os, time\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(3600)\n"
    (server.project / "guinea_settings.py").write_text(script)
    server.signal(signal.SIGHUP)
    server._poll("the settings are being read", lambda: started.exists() and started.read_text(), 60)
    reader = int(started.read_text())
    others = set(server._remaining_processes()) - {reader}
    server.signal(number)
    server.wait_exit()
    # a process that exits shows no descriptors a moment before the kernel has closed them
    server._poll(
        "the others have ended", lambda: not any(Path(f"/proc/{pid}").exists() for pid in others), 60
    )
    server._poll("the workers have gone", lambda: server._remaining_processes() in ([], [reader]), 60)
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free
    server._poll("the reader has ended", lambda: not Path(f"/proc/{reader}").exists(), 60)


def test_a_file_that_is_touched_or_replaced_reloads_without_surge_too(serve, tmp_path, subtests):
    release, late = tmp_path / "release", tmp_path / "late"
    release.write_text("1")
    server = serve("--surge", "0", "--touch-reload", f"{release},{late}", project_copy=True)
    server.wait_ready()
    with subtests.test("a file that is touched or replaced reloads"):
        for number, change in enumerate((release.touch, lambda: replace(release), late.touch), 1):
            change()
            server.wait(f"reload {number}", lambda status, n=number: status["arbiter"]["generation"] == 1 + n)
            server.wait_ready()
        late.unlink()
        release.touch()
        server.wait("the last reload", lambda status: status["arbiter"]["generation"] == 5)
        assert [event["by"] for event in server.events("reload")] == [
            f"touch-reload {path}" for path in (release, release, late, release)
        ]
    wait_settled(server)
    with subtests.test("without surge a broken reload is frozen too"):
        (server.project / "guinea_urls.py").write_text("1 / 0\n")
        assert order(server, "reload", "--wait").returncode == ExitCode.LOAD_FAILED
        server.wait("frozen", lambda status: status["arbiter"]["frozen"])
        assert server.status()["ready"] == 1
        assert server.statuses(6) == {200: 6}


def replace(path):
    new = path.with_suffix(".new")
    new.write_text("2")
    new.rename(path)
