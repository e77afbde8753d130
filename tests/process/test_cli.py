"""The workerguard command and the control socket, on real servers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path

import jsonschema
import pytest

from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.control_client import ask
from django_workerguard.scoreboard.header import VERSION, WORD, Header
from tests.process.commands import order, workerguard
from tests.process.harness import PROJECT, ROOT, Server

TOP = {"version", "arbiter", "host", "name", "release", "target", "ready", "slots", "findings"}
SLOT = {
    "slot",
    "pid",
    "successor",
    "state",
    "generation",
    "since",
    "requests",
    "errors_5xx",
    "in_flight",
    "rss_bytes",
    "load_seconds",
    "load_steps",
    "outdated",
    "loading_for",
    "failures",
    "next_try_in",
    "last_error",
}


def control_path(server: Server) -> Path:
    return next(path for path in server.run_dir.glob("*.sock") if path.name != "http.sock")


def test_status(serve, faults):
    server = serve()
    server.wait_ready()
    faults.set("urlconf", "exception")
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait_event("load-failed")

    table = workerguard("status", "--name", "guinea", run_dir=server.run_dir)
    assert table.returncode == 0
    assert "1 of 2 ready" in table.stdout
    assert "warning: slot 1 cannot load the application: RuntimeError" in table.stdout

    told = json.loads(workerguard("status", "--json", "--name", "guinea", run_dir=server.run_dir).stdout)
    assert set(told) >= TOP
    assert set(told["slots"][0]) >= SLOT
    schema = json.loads((ROOT / "docs" / "reference" / "status.schema.json").read_text())
    jsonschema.validate(told, schema)
    assert told["pools"] == []
    assert set(told) | {"replaces"} == set(schema["properties"])
    assert set(told["slots"][0]) == set(schema["$defs"]["slot"]["properties"])
    assert set(told["slots"][0]["last_error"]) == set(
        schema["$defs"]["slot"]["properties"]["last_error"]["properties"]
    )
    assert set(told["slots"][1]["load_steps"][0]) == set(schema["$defs"]["step"]["properties"])
    assert told["findings"][0]["slot"] == 1


def test_events_and_explain(serve, faults):
    server = serve()
    server.wait_ready()
    faults.set("ready", "memory", 1)
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait_event("load-failed")
    server.wait_ready()
    assert re.search(r"slot=1 [^\n]*next try in [\d.]+ s", server.log), "in the words of `status`"
    lines = workerguard("events", "--json", "--name", "guinea", run_dir=server.run_dir).stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines][:2] == ["started", "spawned"]
    assert (
        len(workerguard("events", "-n", "3", "--name", "guinea", run_dir=server.run_dir).stdout.splitlines())
        == 3
    )
    state = workerguard("explain", "--name", "guinea", run_dir=server.run_dir).stdout
    assert state.startswith("guinea on ")
    story = workerguard("explain", "1", "--name", "guinea", run_dir=server.run_dir).stdout
    assert "load-failed" in story
    assert "MemoryError: as if there were no memory" in story
    for command in (("explain", "9"), ("memory", "--slot", "9"), ("memory", "--slot", "999999")):
        missing = workerguard(*command, "--name", "guinea", run_dir=server.run_dir)
        assert (missing.returncode, "the slots are 1 to 2" in missing.stderr) == (ExitCode.USAGE, True), (
            command
        )


def test_probes(serve, faults):
    server = serve("--stand-in", "off")
    server.wait_ready()
    for kind in ("live", "ready", "startup"):
        assert (
            workerguard("probe", kind, "--name", "guinea", run_dir=server.run_dir).returncode == ExitCode.OK
        )
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    server.wait("nobody", lambda status: status["ready"] == 0)
    ready = workerguard("probe", "ready", "--name", "guinea", run_dir=server.run_dir)
    assert (ready.returncode, "0 of 2 workers ready" in ready.stdout) == (ExitCode.UNAVAILABLE, True)
    assert workerguard("probe", "live", "--name", "guinea", run_dir=server.run_dir).returncode == ExitCode.OK


def test_the_server_is_found_from_the_project_and_below_it(serve, tmp_path):
    one, other = serve(project_copy=True), serve(project_copy=True)
    for server in (one, other):
        server.wait_ready()
    for path in other.run_dir.iterdir():
        if path.suffix in (".board", ".sock") and path.name != "http.sock":
            (one.run_dir / path.name).symlink_to(path) if path.suffix == ".sock" else os.link(
                path, one.run_dir / path.name
            )
    for where in (one.project, one.project / "guinea_app"):
        told = json.loads(workerguard("status", "--json", run_dir=one.run_dir, cwd=where).stdout)
        assert told["arbiter"]["pid"] == one.arbiter
    several = workerguard("status", run_dir=one.run_dir, cwd=tmp_path)
    assert several.returncode == ExitCode.USAGE
    assert "Choose one with --name" in several.stderr
    assert f"{one.project.name}.{one.arbiter}" in several.stderr
    named = workerguard(
        "status", "--name", f"{other.project.name}.{other.arbiter}", run_dir=one.run_dir, cwd=tmp_path
    )
    assert named.returncode == ExitCode.OK


def test_no_server(tmp_path):
    for arguments in (("status",), ("probe", "ready"), ("events",), ("explain", "1")):
        told = workerguard(*arguments, "--name", "nobody-is-called-so", run_dir=tmp_path)
        assert (told.returncode, told.stderr.count("\n")) == (ExitCode.NO_SERVER, 1)


@pytest.mark.parametrize("content", [b"", b"not a board at all" * 1000])
def test_a_file_that_is_no_board_is_named_and_harms_nobody(tmp_path, content):
    (tmp_path / "shop.1.board").write_bytes(content)
    told = workerguard("status", "--run-dir", str(tmp_path), run_dir=tmp_path)
    assert told.returncode == ExitCode.NO_SERVER
    assert "shop.1.board" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_board_of_another_version_is_named_with_what_to_do(serve):
    server = serve()
    server.wait_ready()
    (board,) = server.run_dir.glob("*.board")
    with board.open("r+b") as file:
        file.seek(Header.VERSION * WORD)
        file.write((VERSION + 1).to_bytes(WORD, "little"))
    told = workerguard("status", "--run-dir", str(server.run_dir), run_dir=server.run_dir)
    assert told.returncode == ExitCode.NO_SERVER
    assert f"version {VERSION + 1}, but this program reads version {VERSION}" in told.stderr
    assert (
        workerguard("probe", "live", "--run-dir", str(server.run_dir), run_dir=server.run_dir).returncode
        == 72
    )


@pytest.mark.needs("root")
def test_the_control_socket_refuses_another_user_and_says_who_asked(serve):
    server = serve()
    server.wait_ready()
    stranger = ("setpriv", "--reuid=4711", "--regid=4711", "--clear-groups")
    # the mode of the socket keeps a stranger out; with this one only the credentials do
    capable = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    asking = "import sys, pathlib; from django_workerguard.scoreboard.control_client import ask; print(ask(pathlib.Path(sys.argv[1]), 'reload'))"

    def ask_as(*capabilities: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*stranger, *capabilities, sys.executable, "-c", asking, str(control_path(server))],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    assert "user 4711 may not control this server" in ask_as(*capable).stdout
    assert ask_as().returncode != 0
    assert [(event["by_uid"], event["do"]) for event in server.events("asked")] == [(4711, "reload")]
    assert server.status()["arbiter"]["generation"] == 1


def test_the_control_socket(serve):
    server = serve()
    server.wait_ready()
    path = control_path(server)
    assert path.stat().st_mode & 0o777 == 0o600
    assert ask(path, "wake") == {"accepted": True}
    assert ask(path, "scale", target=3) == {"accepted": True}
    server.wait_ready(3)
    assert "it can be 1 to" in ask(path, "scale", target=10_000)["reason"]
    assert "there is no slot 7" in ask(path, "recycle", slot=7)["reason"]
    before = server.slot(1)["pid"]
    assert ask(path, "recycle", slot=1) == {"accepted": True}
    server.wait("another worker in slot 1", lambda status: status["slots"][0]["pid"] not in (None, before))
    assert ask(path, "reload") == {"accepted": True}
    server.wait("the new generation", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))
    assert "unknown request" in ask(path, "dance")["reason"]
    asked = server.events("asked")
    assert {event["by_uid"] for event in asked} == {os.getuid()}
    assert [event["do"] for event in asked][-2:] == ["reload", "dance"]


def test_nonsense_on_the_control_socket_is_refused(serve):
    server = serve()
    server.wait_ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.bind("")
        client.settimeout(20)
        client.connect(str(control_path(server)))
        for nonsense in (b"\xff\xfe", b"[]", b"{}", b'{"do"', b"null", b"x" * 4000):
            client.send(nonsense)
            assert json.loads(client.recv(4096)) == {"accepted": False, "reason": "not a request"}
    assert server.statuses(3) == {200: 3}


def test_the_arbiter_has_one_thread_and_no_django(serve, tmp_path):
    conf, told = tmp_path / "conf.py", tmp_path / "modules"
    conf.write_text(
        f"import sys\ndef on_exit(server):\n    open({str(told)!r}, 'w').write('\\n'.join(sys.modules))\n"
    )
    server = serve("-c", str(conf))
    server.wait_ready()
    assert len(os.listdir(f"/proc/{server.arbiter}/task")) == 1
    assert server.stop() == 0
    modules = set(told.read_text().splitlines())
    assert "gunicorn.arbiter" in modules
    assert not {name for name in modules if name.partition(".")[0] in ("django", "asyncio", "asgiref")}


@contextlib.contextmanager
def watched(server, **streams):
    """`workerguard status --watch` on a server, and no such process afterwards."""
    command = [sys.executable, "-m", "django_workerguard.cli", "status", "--watch=0.1"]
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    watching = subprocess.Popen(
        [*command, "--run-dir", str(server.run_dir)],
        cwd=PROJECT,
        env={**environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
        **streams,
    )
    try:
        yield watching
    finally:
        watching.kill()
        watching.wait()


def read_until(stream: int, *wanted: str) -> None:
    seen = ""
    while not all(text in seen for text in wanted):
        ready, _, _ = select.select([stream], [], [], 60)
        assert ready, seen
        read = os.read(stream, 65536)
        assert read, seen
        seen += read.decode(errors="replace")


def test_watch_prints_one_table_after_the_other_where_there_is_no_terminal(serve):
    server = serve()
    server.wait_ready()
    with watched(server, stdout=subprocess.PIPE) as watching, watching.stdout:
        for _ in range(3):
            read_until(watching.stdout.fileno(), "2 of 2 ready")


def on_terminal(server, *, columns: int, **environ: str) -> str:
    """Return what `workerguard status` prints on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "django_workerguard.cli", "status", "--run-dir", str(server.run_dir)],
        cwd=PROJECT,
        env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environ},
        stdout=theirs,
        timeout=60,
    )
    assert done.returncode == 0
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # once all of it has been read
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_watch_is_a_live_screen_on_a_terminal(serve, faults):
    server = serve()
    server.wait_ready()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))
    with watched(server, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        read_until(ours, "2 of 2 ready")
        faults.set("ready", "memory")
        os.kill(server.pids()[0], signal.SIGKILL)
        read_until(ours, "1 of 2 ready", "back-off", "MemoryError")
    os.close(ours)
    lines = on_terminal(server, columns=80).splitlines()
    assert max(len(re.sub("\033\\[[0-9;]*m", "", line)) for line in lines) <= 80
    assert any(line.startswith("\033[33mwarning: slot 1 cannot load") for line in lines)
    assert "\033" not in on_terminal(server, columns=80, NO_COLOR="1")


def test_the_server_of_this_directory_is_meant_before_one_above_it(serve, tmp_path):
    boards = tmp_path / "boards"
    boards.mkdir(mode=0o700)
    outer = Path(shutil.copytree(PROJECT, tmp_path / "outer"))
    inner = Path(shutil.copytree(PROJECT, outer / "inner"))
    for project in (outer, inner):
        server = serve("--run-dir", str(boards), "--name", project.name, project=project, workers=1)
        server.wait_log("(1 of 1)")
    for place, name in ((outer, "outer"), (inner, "inner"), (inner / "guinea_app", "inner")):
        told = workerguard("status", "--json", run_dir=boards, cwd=place)
        assert json.loads(told.stdout)["name"] == name


def test_a_run_directory_whose_path_is_longer_than_that_of_a_unix_socket(serve, tmp_path):
    directory = tmp_path / ("x" * 120)
    directory.mkdir()
    server = serve("--run-dir", str(directory), board_directory=directory)
    before = set(server.wait_ready() and server.pids())
    reloaded = order(server, "reload", "--wait", "60", "--run-dir", str(directory))
    assert reloaded.returncode == ExitCode.OK, reloaded.stderr
    assert before.isdisjoint(server.pids())
    assert "no control socket" not in server.log
    assert server.stop() == 0
    assert list(directory.iterdir()) == []


def test_a_name_that_is_too_long_for_the_control_socket(serve, tmp_path):
    name = "x" * 120
    server = serve("--name", name)
    server.wait_ready()
    why = "its name is too long for a unix socket"
    assert (
        f"no control socket, so that workerguard reload, recycle and scale do not work: {why}" in server.log
    )
    refused = order(server, "reload")
    assert refused.returncode == ExitCode.REFUSED
    assert f".sock: {why}" in refused.stderr
