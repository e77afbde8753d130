"""A worker whose requests all fail must not win the race to accept; a fleet in which all are suspect answers."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from django_workerguard.scoreboard.snapshot import SUSPECT_AFTER, SUSPECT_FOR, is_suspect
from tests.process.harness import Server


def sick_of(server: Server) -> int:
    """Make one worker sick and suspect; return its pid."""
    server.get("/sicken")
    sick = next(reply.pid for reply in (server.get("/") for _ in range(1000)) if reply.status == 500)
    server.wait("suspicion", lambda status: _is_suspect(server, sick))
    return sick


def _is_suspect(server: Server, pid: int) -> bool:
    server.get("/")
    return any(slot["suspect"] for slot in server.status()["slots"] if slot["pid"] == pid)


def test_failing_fast_does_not_win_the_traffic(worker_class, serve):
    # uvloop, which is taken where it is installed, accepts in C: nothing can be put in front
    worker_class = worker_class.replace("UvicornWorker", "UvicornH11Worker")
    server = serve("-k", worker_class, workers=3, environ={"GUNICORN_CMD_ARGS": "--asgi-loop asyncio"})
    server.wait_ready()
    sick = sick_of(server)
    with ThreadPoolExecutor(2) as pool:
        answered = Counter(reply.pid for reply in pool.map(lambda _: server.get("/"), range(300)))
    assert answered[sick] < 300 / 3 / 2, "less than half of its fair share"


def test_where_all_are_suspect_all_still_answer(worker_class, serve):
    server = serve("-k", worker_class)
    server.wait_ready()

    def all_suspect(status: dict) -> bool:
        server.get("/broken")
        return all(slot["suspect"] for slot in status["slots"])

    server.wait("suspicion of all", all_suspect)
    assert server.statuses(50, "/broken") == {500: 50}
    assert 200 in server.statuses(10)


def test_suspicion_ends_by_itself_on_a_site_without_requests():
    assert is_suspect(SUSPECT_AFTER, 0)
    assert not is_suspect(SUSPECT_AFTER - 1, 0)
    assert not is_suspect(1000, SUSPECT_FOR)


def test_a_success_clears_the_suspicion(serve):
    server = serve("-w", "1")
    server.wait_ready()
    server.statuses(5, "/broken")
    assert server.slot(1)["suspect"]
    server.get("/")
    server.wait("no suspicion", lambda status: not status["slots"][0]["suspect"])
