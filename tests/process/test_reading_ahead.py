"""The settings are read for the server while the system checks of manage.py run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from django_workerguard.probe.process import start_time
from tests.process.shop import WAYS, Shop, reloads

NOTES_READINGS = """
    ANYTHING = os.environ.get("ANYTHING", "nothing")
    with open(HERE / "readings", "a") as readings:
        print(os.getpid(), ANYTHING, file=readings)
    GREETING = ANYTHING
    INSTALLED_APPS = ["django_workerguard", "shop"]
"""
CHECKS = """
    import os
    import time
    from pathlib import Path

    from django.apps import AppConfig
    from django.core.checks import Error, register


    def readings():
        return [line.split()[0] for line in Path("readings").read_text().splitlines()]


    class Shop(AppConfig):
        name = "shop"

        def ready(self):
            @register("shop")
            def check(app_configs, **kwargs):
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline:
                    if set(readings()) - {str(os.getpid())}:
                        return FOUND
                    time.sleep(0.01)
                return [Error("no other process has read the settings")]


    FOUND = []
"""


def readings(shop: Shop) -> list[list[str]]:
    return [line.split() for line in (shop.directory / "readings").read_text().splitlines()]


@pytest.fixture
def checked(serve, tmp_path):
    """A project whose system check passes only once another process has read the settings."""
    shop = Shop(serve, WAYS["manage.py"], tmp_path / "shop")
    shop.make(settings=NOTES_READINGS, shop__apps=CHECKS)
    return shop


def test_the_settings_are_read_for_the_server_while_the_checks_run(checked):
    server = checked.start("--skip-checks", workers=1)  # the workers do not check either
    server.stop()
    before = len(readings(checked))
    (checked.directory / "readings").unlink()
    server = checked.start()
    assert [word for _, word in readings(checked)] == ["nothing"] * 3  # manage.py, the reader, the worker
    assert before == 3
    assert server.get("/").body == "nothing"
    checked.change("shop/settings.py", "GREETING = ANYTHING", 'GREETING = "changed"')
    assert reloads(server) == "changed"
    inherited = [os.readlink(path) for path in Path(f"/proc/{server.arbiter}/fd").iterdir()]
    assert not [name for name in inherited if "workerguard-settings" in name]


@pytest.mark.parametrize(
    ("arguments", "conf"),
    [
        (("--", "--env", "ANYTHING=given"), ""),
        ((), "import os\nos.environ['ANYTHING'] = 'given'\n"),
    ],
    ids=["raw_env", "gunicorn.conf.py"],
)
def test_the_settings_are_read_again_if_the_configuration_changes_the_environment(checked, arguments, conf):
    checked.write("gunicorn.conf.py", conf)
    server = checked.start(*arguments)
    assert server.get("/").body == "given"
    assert [word for _, word in readings(checked)] == ["nothing", "nothing", "given", "given"]


def test_a_failed_check_ends_the_start_and_what_reads_the_settings(checked):
    checked.change("shop/apps.py", "FOUND = []", 'FOUND = [Error("the shop is closed")]')
    checked.change("shop/settings.py", "GREETING = ANYTHING", "GREETING = ANYTHING" + HANG_BESIDE)
    server = checked.serve(
        project=checked.directory, command=checked.command, environ={"DJANGO_SETTINGS_MODULE": None}
    )
    assert server.wait_exit() == 1
    assert "the shop is closed" in server.log
    assert "Traceback" not in server.log
    for pid, _ in readings(checked):
        assert not start_time(int(pid))


HANG_BESIDE = """
if "--help" in __import__("sys").argv:
    __import__("time").sleep(3600)
"""


def test_a_wrong_configuration_ends_what_reads_the_settings(checked):
    checked.change("shop/settings.py", "GREETING = ANYTHING", "GREETING = ANYTHING" + HANG_BESIDE)
    server = checked.serve(
        "--",
        "--workers",
        "many",
        project=checked.directory,
        command=checked.command,
        environ={"DJANGO_SETTINGS_MODULE": None},
    )
    assert server.wait_exit() == ExitCode.USAGE
    for pid, _ in readings(checked):
        assert not start_time(int(pid))


def test_a_reading_that_fails_while_the_checks_run_is_repeated(checked):
    once = """
if "--help" in __import__("sys").argv and not Path("failed").exists():
    Path("failed").touch()
    raise ValueError("once")
"""
    checked.change("shop/settings.py", "GREETING = ANYTHING", "GREETING = ANYTHING" + once)
    server = checked.start()
    assert server.get("/").body == "nothing"
    assert "once" not in server.log


@pytest.mark.parametrize("action", ["--check", "--print-config"])
def test_other_actions_take_the_answer_too(checked, action):
    server = checked.serve(
        action, project=checked.directory, command=checked.command, environ={"DJANGO_SETTINGS_MODULE": None}
    )
    assert server.wait_exit() == ExitCode.OK
    assert len(readings(checked)) == (3 if action == "--check" else 2)
