"""What a start inherits, and what the settings leave in the process of manage.py: neither reaches or stops the server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.process.harness import ROOT, TIMEOUT
from tests.process.shop import MANAGE_PY, WAYS, Shop, make_shop, reloads

CLOSED = {"input": "<&-", "output": ">&-", "error": "2>&-", "all three": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED.keys())
def test_closed_standard_streams(shop, closed):
    """Nothing that the server opens gets their numbers, so nothing is printed into it."""
    shop.make(settings='    FILE = open(HERE / "file", "a")\n    print("hello")\n')
    server = shop.start(prefix=("sh", "-c", f'exec "$@" {closed}', "sh"))
    for pid in (server.arbiter, *server.pids()):
        opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
        assert not set(opened) - {os.devnull, str(server.log_path)}
    assert server.get("/").body == "one"
    shop.change("shop/settings.py", '"one"', '"two"')
    assert reloads(server) == "two"
    assert server.stop() == 0
    assert Path(shop.directory, "file").read_text() == ""


def test_commands_with_closed_standard_streams(serve):
    server = serve(workers=1)
    server.wait_ready()
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "django_workerguard.cli")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "WORKERGUARD_RUN_DIR": str(server.run_dir)}
    for command in (("probe", "ready"), ("status",)):
        ended = subprocess.run([*closed, *command], cwd=server.project, env=environ, timeout=60)
        assert ended.returncode == 0, command


OPTIONS = (
    "-O",
    "-u",
    "-B",
    "-E",
    "-s",
    "-X",
    "utf8",
    "-X",
    "no_debug_ranges",
    "-W",
    "ignore::ResourceWarning",
)
OPTIONS_ARE_THERE = "1 1 1 1 1 ['no_debug_ranges', 'utf8'] True True"
NEEDS_OPTIONS = """
    import sys

    assert False, "-O removes this"
    flags = sys.flags
    GREETING = f"{flags.optimize} {flags.dont_write_bytecode} {flags.ignore_environment} {flags.no_user_site} " + (
        f"{flags.utf8_mode} {sorted(sys._xoptions)} {sys.stdout.write_through} "
        f"{'ignore::ResourceWarning' in sys.warnoptions}"
    )
    EMAIL_BACKEND, EMAIL_FILE_PATH = "django.core.mail.backends.filebased.EmailBackend", HERE / "mails"
    DEBUG = True  # a finding
"""


def test_options_of_the_interpreter_apply_wherever_the_settings_are_read(shop):
    """Only the program that starts knows where the package is: -E has PYTHONPATH ignored."""
    find = f"import runpy, sys\nsys.path.insert(1, {str(ROOT)!r})\n"
    shop.make(
        settings=NEEDS_OPTIONS, manage=find + textwrap.dedent(MANAGE_PY.format(settings="shop.settings"))
    )
    if not shop.by_manage_py:
        run = "runpy.run_module('django_workerguard', run_name='__main__', alter_sys=True)"
        shop.command = ("-c", find + run, *shop.command[2:])
    shop.command = (*OPTIONS, *shop.command)
    server = shop.start("--notify", "email:oncall@example.org", "--notify-interval", "1")
    assert server.get("/").body == OPTIONS_ARE_THERE
    mails = shop.directory / "mails"
    server._poll("a mail", lambda: mails.exists() and list(mails.iterdir()), TIMEOUT)
    shop.change("shop/settings.py", 'GREETING = f"', 'GREETING = f"again ')
    assert reloads(server) == f"again {OPTIONS_ARE_THERE}"


SIGNALS_OF_THE_SITE = """
    import signal

    for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
        signal.signal(number, lambda *_: None)
    signal.alarm(2)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.2, 0.2)
    signal.setitimer(signal.ITIMER_PROF, 0.2, 0.2)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGCHLD})
"""


def test_timers_and_blocked_signals_of_the_settings_do_not_reach_the_arbiter(shop):
    shop.make(settings=SIGNALS_OF_THE_SITE)
    server = shop.start()
    status = Path(f"/proc/{server.arbiter}/status").read_text()
    assert re.search(r"^SigBlk:\s+0+$", status, re.MULTILINE)
    alarm = time.monotonic() + 2.5
    server._poll("the time of the alarm", lambda: time.monotonic() > alarm, TIMEOUT)
    shop.change("shop/settings.py", '"one"', '"two"')
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    assert server.get("/").body == "two"
    assert server.stop() == 0


def test_a_timer_that_the_operator_has_set_still_ends_the_server(serve, tmp_path):
    shop = Shop(serve, WAYS["manage.py"], tmp_path / "shop")
    shop.make()
    limited = "import os, signal, sys; signal.alarm(30); os.execvp(sys.argv[1], sys.argv[1:])"
    server = shop.start(prefix=(sys.executable, "-c", limited))
    assert server.wait_exit() == -signal.SIGALRM


def test_a_failed_check_in_a_project_that_ignores_sigchld(tmp_path):
    """The settings are being read by a child at that time."""
    ignoring = "    import signal\n    signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n    WORKERGUARD = []\n"
    shop = make_shop(tmp_path / "shop", settings=ignoring)
    ended = subprocess.run(
        [sys.executable, *WAYS["manage.py"]],
        cwd=shop,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "shop.settings"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "SystemCheckError" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_settings_that_clear_the_environment(shop):
    """They read a secret, and leave nothing to the programs that the site starts."""
    shop.make(
        settings='    GREETING = "one " + os.environ["SECRET"]\n    os.environ.clear()\n    TIME_ZONE = "Asia/Tokyo"\n'
    )
    server = shop.start(environ={"SECRET": "horse"})
    assert server.get("/").body == "one horse"
    assert "+0900" not in "".join(line for line in server.log.splitlines() if f"[{server.arbiter}]" in line)
    assert server.status()["settings"] == "shop.settings"
    shop.change("shop/settings.py", '"one', '"two')
    assert reloads(server) == "two horse"
    server.kill_worker()
    server.wait_event("ready", count=3)
    assert server.get("/").body == "two horse"


# what manage.py does with its own arguments before Django gets the others
OWN_ARGUMENTS = {
    "before the command": (("manage.py", "--production", "serve_guarded"), "sys.argv.remove('--production')"),
    "after the command": (("manage.py", "serve_guarded", "--production"), "sys.argv.remove('--production')"),
    "a word": (("manage.py", "production", "serve_guarded"), "sys.argv.remove('production')"),
    "argparse": (
        ("manage.py", "--site", "production", "serve_guarded"),
        """
        import argparse
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("--site", required=True)
        sys.argv[1:] = parser.parse_known_args()[1]
        """,
    ),
}


@pytest.mark.parametrize("kind", OWN_ARGUMENTS)
def test_a_manage_py_with_arguments_of_its_own(serve, tmp_path, kind):
    """Without them it does not get as far as the settings, or these are others."""
    command, takes = OWN_ARGUMENTS[kind]
    prepares = f"import os\nimport sys\n{textwrap.dedent(takes)}\nos.environ['SHOP_SITE'] = 'production'\n"
    shop = Shop(serve, command, tmp_path / "shop")
    shop.make(
        settings='GREETING = os.environ.get("SHOP_SITE", "development")\n',
        manage=prepares + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")),
    )
    server = shop.start()
    assert server.get("/").body == "production"
    shop.change("manage.py", "= 'production'", "= 'changed'")
    assert reloads(server) == "changed"
