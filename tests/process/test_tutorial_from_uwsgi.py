"""The tutorial that leads from uWSGI to the guard, done as a reader does it, with a real uWSGI behind a real nginx."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import AbstractContextManager

import pytest

from tests.components import COMPONENTS
from tests.process.harness import ROOT, TIMEOUT
from tests.process.tutorials import Reader, blocks, commands, printed, same_table, shape

PAGE = (ROOT / "docs" / "tutorial" / "from-uwsgi.md").read_text()

pytestmark = pytest.mark.needs("nginx", "uwsgi")


class Administrator(Reader):
    """A reader with several terminals."""

    def __init__(self, directory, ports: list[int]) -> None:
        super().__init__(directory, ports[0])
        self.ports = {"8000": str(ports[0]), "8001": str(ports[1])}
        programs = {os.path.dirname(COMPONENTS[name].path() or "") for name in ("nginx", "uwsgi")}
        self.environ["PATH"] = os.pathsep.join((self.environ["PATH"], *programs))
        self.environ["VIRTUAL_ENV"] = sys.prefix

    def here(self, text: str) -> str:
        for on_the_page, port in self.ports.items():
            text = text.replace(on_the_page, port)
        return text

    def do(self, command: str) -> str:
        done = super().do(self.here(command))
        for on_the_page, port in self.ports.items():
            done = done.replace(port, on_the_page)
        return done

    def terminal(self, command: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return self.running(self.here(command), f"log-{command.split(maxsplit=1)[0]}")

    def write(self, language: str) -> None:
        """Write a file of the page, whose first line has its name."""
        for block in blocks(language, PAGE):
            first, _, text = block.partition("\n")
            (self.directory / first.strip("#; ")).write_text(self.here(text))

    def install(self, app: str, *, instead_of: str = "INSTALLED_APPS = [") -> None:
        path = self.directory / "mysite" / "settings.py"
        new = f'INSTALLED_APPS = [\n    "{app}",' if instead_of.endswith("[") else f'"{app}"'
        text = path.read_text()
        assert instead_of in text
        path.write_text(text.replace(instead_of, new, 1))

    def answers(self, command: str) -> dict[str, int]:
        told = self.do(command)
        print(told)
        return {status: int(count) for count, status in map(str.split, told.splitlines())}

    def until_answered(self, command: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while set(self.answers(command)) != {"200"}:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture
def administrator(tmp_path):
    with socket.socket() as one, socket.socket() as other:
        ports = []
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
            ports.append(int(free.getsockname()[1]))
    return Administrator(tmp_path, ports)


@pytest.mark.timeout(300)
def test_from_uwsgi(administrator):
    reader, steps = administrator, commands(PAGE)
    (ask,) = {step for step in steps if step.startswith("for i") and "uniq" in step}
    (visit,) = (step for step in steps if step.startswith("for i") and "uniq" not in step)
    (kill,) = {step for step in steps if step.startswith("kill -9 $(pgrep")}
    (kill_guarded,) = (step for step in steps if step.startswith("kill -9 $(workerguard"))
    asked = [{status: int(count) for count, status in map(str.split, lines)} for lines in printed(ask, PAGE)]
    start_uwsgi, start_nginx, start = (
        next(step for step in steps if step.startswith(beginning))
        for beginning in ("uwsgi ", "nginx ", "python manage.py serve_guarded")
    )
    for step in steps[1:4]:
        reader.do(step)
    (reader.directory / "shop" / "apps.py").write_text(blocks("python", PAGE)[0])
    reader.install("shop")
    reader.write("ini")
    reader.write("nginx")

    with reader.terminal(start_nginx):
        with reader.terminal(start_uwsgi) as uwsgi:
            log = reader.directory / "log-uwsgi"
            deadline = time.monotonic() + TIMEOUT
            while log.read_text().count("WSGI app 0") < 4:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            reader.do("touch no-memory")
            reader.do(kill)
            while log.read_text().count("no app loaded") < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            shown = [reader.answers(ask)]
            reader.do("rm no-memory")
            time.sleep(1)
            shown.append(reader.answers(ask))
            # the workers without an application are the fastest, and may answer all requests
            assert all(
                "500" in answers.keys() <= page.keys() for answers, page in zip(shown, asked, strict=False)
            ), shown

            reader.install("django_workerguard.contrib.uwsgi")
            reader.do("kill -HUP $(cat uwsgi.pid)")
            table = reader.until("4 of 4 ready", "workerguard status || true").splitlines()
            (page,) = printed("workerguard status", PAGE)
            same_table(page, table)
            assert shape(table[-1]) == shape(page[-1])
            reader.do("touch no-memory")
            reader.do(kill)
            events = reader.until(" killed ", f"{ask} >&2; workerguard events")
            assert "type=NoApplication" in events
            reader.do("rm no-memory")
            reader.do(visit)
            reader.until("4 of 4 ready", f"{ask} >&2; workerguard status")
            assert reader.answers(ask).keys() == asked[3].keys() == {"200"}
            events = reader.do("workerguard events")
            for line in printed("workerguard events", PAGE)[0][1:]:
                assert line == "…" or re.search(rf"Z {line.split()[1]} ", events), events
            (translate,) = (step for step in steps if step.startswith("workerguard from-uwsgi"))
            translated = reader.do(translate).splitlines()
            assert set(printed(translate, PAGE)[0]) - {"…"} <= set(translated)
            reader.install("django_workerguard", instead_of='"django_workerguard.contrib.uwsgi"')
            reader.do("kill -TERM $(cat uwsgi.pid)")
            assert uwsgi.wait(TIMEOUT) == 0

        with reader.terminal(start) as server:
            reader.until("4 of 4 ready", "workerguard status || true")
            reader.until_answered(ask)
            reader.do("touch no-memory")
            reader.do(kill_guarded)
            reader.until("cannot load the application", "workerguard status")
            assert reader.answers(ask).keys() == asked[4].keys() == {"200"}
            reader.do("rm no-memory")
            reader.until("4 of 4 ready", "workerguard status")
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait(TIMEOUT) == 0
