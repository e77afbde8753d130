"""What application code gets to know: signals, current_worker(), the release, error reporters, counters."""

from __future__ import annotations

import gc
import os
import signal
import threading


def test_signals_and_current_worker(worker_class, serve):
    server = serve(
        "-k",
        worker_class,
        "--release",
        "env:GUINEA_RELEASE",
        environ={"GUINEA_RELEASE": "r42", "GUINEA_TALKS": "1"},
    )
    server.wait_ready()
    assert server.status()["release"] == "r42"
    assert server.log.count("worker_loaded slot=") == 2
    told = server.get("/who").body
    assert "release=r42 loaded=True" in told
    assert f"collected-after={gc.get_threshold()[0]}\n" in told, "the load has left Python's own threshold"
    server.signal(signal.SIGHUP)
    server.wait("the new generation", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))
    server.wait_log("worker_retiring slot=1")
    server.wait_log("worker_retiring slot=2")
    assert server.stop() == 0


def test_mixed_releases_are_found(serve, tmp_path):
    revision = tmp_path / "REVISION"
    revision.write_text("one")
    server = serve("--release", f"file:{revision}")
    server.wait_ready()
    revision.write_text("two")
    os.kill(server.pids()[0], signal.SIGKILL)
    status = server.wait(
        "a mixed fleet", lambda status: status["release"] == "mixed" and status["ready"] == 2
    )
    assert {slot["release"] for slot in status["slots"]} == {"one", "two"}


def test_a_failed_load_reaches_an_error_reporter(serve, faults):
    """A reporter hooks into sys.excepthook and flushes when the process exits."""
    server = serve(environ={"GUINEA_REPORTER": "1"})
    server.wait_ready()
    faults.set("urlconf", "exception", 1)
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait_event("load-failed")
    assert "reported RuntimeError" in server.log
    assert "flushed" in server.log


def test_a_reporter_that_never_ends_is_ended(serve, faults):
    server = serve(environ={"GUINEA_REPORTER": "for ever"})
    server.wait_ready()
    faults.set("urlconf", "exception", 1)
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait_event("killed")
    server.wait_ready()


def test_counters_survive_the_worker_and_streams_count_until_they_end(worker_class, serve):
    server = serve("-k", worker_class, "-w", "1")
    server.wait_ready()
    server.statuses(5, "/")
    server.statuses(3, "/broken")
    stream = threading.Thread(target=server.get, args=("/stream?lines=30",))
    stream.start()
    server.wait("a stream in flight", lambda status: status["slots"][0]["in_flight"] == 1)
    stream.join()
    server.wait("its end", lambda status: status["slots"][0]["in_flight"] == 0)
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait("its end is counted", lambda status: status["slots"][0]["exits"] == 1)
    server.wait_ready()
    slot = server.slot(1)
    assert (slot["requests"], slot["errors_5xx"]) == (9, 3)


def test_details_on_the_probes_are_for_who_has_the_token(worker_class, serve):
    server = serve("-k", worker_class, environ={"WORKERGUARD_HEALTH_TOKEN": "open-sesame"})
    server.wait_ready()
    url = "/health/ready/"
    assert server.get(url).body == "ok\n"
    assert server.get(url, headers={"Authorization": "Bearer wrong"}).body == "ok\n"
    assert (
        server.get(url, headers={"Authorization": "Bearer open-sesame"}).body
        == "ok: 2 of 2 workers ready, 1 needed\n"
    )
    assert server.get(url, headers={"Accept": "application/json"}).body == '{"status": "ok"}\n'
    assert server.get(url, headers={"Host": "10.0.0.1"}).status == 200
    assert server.get("/health/", headers={"Accept": "text/plain"}).status == 200
