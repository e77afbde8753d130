"""What a gunicorn.conf.py leaves in the arbiter, and where a project is: neither is why a server does not start or stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.process.harness import ROOT, Since
from tests.process.molds import mold_of
from tests.process.shop import WAYS, Shop, make_shop, point_at, reloads

THREAD = (
    "import threading, time\n\nthreading.Thread(target=time.sleep, args=(3600,), name='watcher').start()\n"
)
THREAD_OF_A_HOOK = (
    "import threading, time\n\n\n"
    "def when_ready(server):\n"
    "    threading.Thread(target=time.sleep, args=(3600,), name='watcher').start()\n"
)
PROCESS_OF_A_HOOK = (
    "import multiprocessing, time\n\n\n"
    "def when_ready(server):\n"
    "    fork = multiprocessing.get_context('fork')\n"
    "    fork.Process(target=time.sleep, args=(30,), name='watcher').start()\n"
)
PROCESSES = (
    "import multiprocessing, pathlib, time\n\n"
    "fork = multiprocessing.get_context('fork')\n"
    "started = fork.Event()\n\n\n"
    "def run():\n"
    "    started.set()\n"
    "    time.sleep(3600)\n\n\n"
    "def when_ready(server):\n"
    "    daemon, other = (fork.Process(target=run, daemon=True) for _ in range(2))\n"
    "    daemon.start()\n"
    "    pathlib.Path('daemon').write_text(str(daemon.pid))\n"
    "    started.wait()\n"
    "    started.clear()\n"
    "    other.start()\n"
    "    started.wait()\n"
    "    other.terminate()\n"
    "    other.join()\n"
)
PATCHES = "from gevent import monkey\n\nmonkey.patch_all()\n"
TAKES_SIGNALS = (
    "import signal\n\n"
    "for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):\n"
    "    signal.signal(number, signal.SIG_IGN)\n"
)


def test_a_directory_with_a_colon_in_its_name(shop, tmp_path):
    """PYTHONPATH cannot hold it; the interpreter that manage.py runs in does."""
    shop.directory = tmp_path / "a:b" / "shop"
    shop.make()
    server = shop.start()
    shop.change("shop/settings.py", 'GREETING = "one"', 'GREETING = "two"')
    assert reloads(server) == "two"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "options",
    [("-k", "gevent"), ("-k", "sync"), ("-k", "gthread", "--load", "mold"), ("-k", "shop.patched.Worker")],
    ids=["gevent", "sync", "gthread, mold", "a worker class that patches"],
)
def test_a_configuration_that_patches_the_arbiter_for_gevent(serve, tmp_path, options):
    """As its documentation says for gunicorn; the functions of the standard library that the arbiter uses are others then."""
    shop = Shop(serve, WAYS["manage.py"], tmp_path / "shop")
    shop.make()
    if "shop.patched.Worker" in options:
        shop.write(
            "shop/patched.py", PATCHES + "from gunicorn.workers.ggevent import GeventWorker as Worker\n"
        )
    else:
        shop.write("gunicorn.conf.py", PATCHES)
    server = shop.start(*options, workers=2)
    server.kill_worker()
    server.wait_event("ready", count=3)
    shop.change("shop/settings.py", 'GREETING = "one"', 'GREETING = "two"')
    assert reloads(server) == "two"
    if "mold" in options:
        os.kill(mold_of(server)["pid"], signal.SIGKILL)
        server.wait_event("mold-ready", count=3)
    server.kill_worker(2)
    server.wait_event("ready", lambda event: event["generation"] == 2, count=3)
    assert server.statuses(10) == {200: 10}
    assert server.stop() == 0


def test_a_child_that_ends_before_its_load_says_why(serve, tmp_path):
    shop = Shop(serve, WAYS["python -m"], tmp_path / "shop")
    shop.make()
    shop.write(
        "gunicorn.conf.py",
        "import os\n\n\ndef close(fd):\n    raise ValueError('not closed')\n\n\nos.close = close\n",
    )
    server = shop.serve(
        project=shop.directory, command=shop.command, environ={"DJANGO_SETTINGS_MODULE": "shop.settings"}
    )
    failed = server.wait_event("load-failed")
    assert (failed["type"], failed["message"]) == ("ValueError", "not closed")
    assert "gunicorn.conf.py" in server.log


@pytest.mark.parametrize(
    "conf", [THREAD, THREAD_OF_A_HOOK, PROCESS_OF_A_HOOK], ids=["the file", "a hook", "a process of a hook"]
)
def test_what_the_configuration_starts_does_not_keep_the_server(serve, tmp_path, conf):
    shop = Shop(serve, WAYS["python -m"], tmp_path / "shop")
    shop.make()
    shop.write("gunicorn.conf.py", conf)
    server = shop.start()
    assert server.stop() == 0
    assert "non-daemon threads or processes still ran after 5 s: 'watcher'" in server.log


def test_a_process_of_the_configuration_ends_with_the_arbiter_and_not_with_a_worker(serve, tmp_path):
    """multiprocessing ends its daemons when the process ends that has started them, and its forks inherit the list."""
    shop = Shop(serve, WAYS["python -m"], tmp_path / "shop")
    shop.make()
    shop.write("gunicorn.conf.py", PROCESSES)
    server = shop.start()
    daemon = Path("/proc") / (shop.directory / "daemon").read_text()
    reloads(server)
    assert len(server.events("exited")) == 1
    assert daemon.exists()
    assert server.stop() == 0
    assert not daemon.exists()


def test_a_thread_of_the_configuration_and_a_wrong_option(serve, tmp_path):
    shop = Shop(serve, WAYS["python -m"], tmp_path / "shop")
    shop.make()
    shop.write("gunicorn.conf.py", THREAD + "workers = 0\n")
    outcome = subprocess.run(
        [sys.executable, *shop.command, "--settings", "shop.settings"],
        cwd=shop.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 2, outcome.stderr
    assert "must be from 1 to" in outcome.stderr


def test_a_configuration_that_takes_signals_at_a_reload(shop):
    shop.make()
    server = shop.start()
    shop.write("gunicorn.conf.py", TAKES_SIGNALS)
    assert reloads(server) == "one"
    assert server.stop() == 0


MOST_COPIES = 4  # of the start, of the reload before, of leaving workers, and the newest
READ_WHERE = "\nprint('settings read by', os.getpid(), flush=True)\n"
COUNTS_DJANGO = """
    import gc
    import types
    import shop.urls

    def is_django(one):
        return type(one) is types.ModuleType and one.__name__ == "django.dispatch"

    print("copies of Django:", sum(map(is_django, gc.get_objects())), flush=True)
"""


def test_reloads_do_not_fill_the_memory_with_what_the_configuration_imports(shop):
    """Each reload imports it again. Django's signals have finalizers, which would keep every copy."""
    shop.make()
    shop.write("gunicorn.conf.py", COUNTS_DJANGO)
    server = shop.start("--load-retry-delay", "20ms", "--load-retry-max-delay", "50ms")
    for _ in range(5):
        assert reloads(server) == "one"

    def copies() -> list[int]:
        return [int(count) for count in re.findall(r"copies of Django: (\d+)", server.log)]

    assert len(copies()) == 6
    assert max(copies()) <= MOST_COPIES
    shop.write("gunicorn.conf.py", textwrap.dedent(COUNTS_DJANGO) + "1 / 0\n")
    server.signal(signal.SIGHUP)
    server.wait_event("reload-refused", count=4)
    assert max(copies()) <= MOST_COPIES


def test_an_installed_package_that_uses_django_stays(shop):
    """As an error reporter, which replaces methods of the standard library: each copy would hold the one before."""
    shop.make()
    shop.write(
        "site-packages/reporter.py",
        """
        import threading
        from django.conf import settings
        from django.http import HttpResponse

        def run(self, before=threading.Thread.run, response=HttpResponse):
            before(self)

        threading.Thread.run = run
        """,
    )
    shop.write("shop/settings.py", (shop.directory / "shop" / "settings.py").read_text() + READ_WHERE)
    conf = "import sys\n\nsys.path.append('site-packages')\n\nimport reporter\n"
    shop.write("gunicorn.conf.py", conf + textwrap.dedent(COUNTS_DJANGO).replace("import shop.urls\n", ""))
    server = shop.start()
    read = f"settings read by {server.arbiter}\n"
    at_start = server.log.count(read)  # before manage.py becomes the arbiter
    for _ in range(3):
        assert reloads(server) == "one"
    assert set(re.findall(r"copies of Django: (\d+)", server.log)) == {"1"}
    assert server.log.count(read) == at_start


def test_a_refused_configuration_that_takes_signals(shop):
    shop.make()
    server = shop.start()
    shop.write("gunicorn.conf.py", TAKES_SIGNALS + "worker_class = 'shop.nothing.Worker'\n")
    server.signal(signal.SIGHUP)
    server.wait_event("reload-refused")
    assert server.stop() == 0


def test_a_stop_while_a_configuration_that_takes_signals_is_read(shop):
    shop.make()
    server = shop.start()
    reading = shop.directory / "reading"
    slow = f"import pathlib, time\n\npathlib.Path({str(reading)!r}).touch()\ntime.sleep(2)\n"
    shop.write("gunicorn.conf.py", TAKES_SIGNALS + slow)
    server.signal(signal.SIGHUP)
    server._poll("the configuration is read", reading.exists, 60)
    assert server.stop() == 0


@pytest.mark.parametrize("way", ["manage.py", "python -m"])
def test_a_reload_after_the_release_of_the_start_was_removed(serve, tmp_path, way):
    """A deployment removes old releases: the arbiter's working directory is gone when the next reload comes."""
    releases = tmp_path / "releases"
    for name in ("one", "two", "three"):
        make_shop(releases / name, settings=f'GREETING = "{name}"')
    current = tmp_path / "current"
    point_at(current, releases / "one")
    server = Shop(serve, WAYS[way], current).start(environ={"PWD": str(current)})
    point_at(current, releases / "two")
    shutil.rmtree(releases / "one")
    assert reloads(server) == "two"
    point_at(current, releases / "three")
    shutil.rmtree(releases / "two")
    assert reloads(server) == "three"
    assert server.stop() == 0


def test_a_next_release_whose_directory_has_the_time_of_the_last(serve, tmp_path):
    """Tools that make reproducible releases set it, and Python takes it for the sign that no file was added."""
    releases = tmp_path / "releases"
    make_shop(releases / "one")
    make_shop(releases / "two", settings="import added\n\nGREETING = added.TEXT\n", added='TEXT = "two"')
    for release in releases.iterdir():
        os.utime(release, (0, 0))
    current = tmp_path / "current"
    point_at(current, releases / "one")
    server = Shop(serve, WAYS["python -m"], current).start(environ={"PWD": str(current)})
    point_at(current, releases / "two")
    since = Since(server)
    server.kill_worker()
    since.wait("ready")
    assert server.get("/").body == "two"


ARCHIVED = {
    "a zipapp": ("site.zip", "serve_guarded"),
    "python -m": WAYS["python -m"],
}


@pytest.mark.parametrize("way", ARCHIVED)
@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_an_archive_that_is_replaced(serve, tmp_path, way, load):
    """zipimport keeps what an archive contains, and a child of the arbiter inherits it."""
    shop = Shop(serve, ARCHIVED[way], tmp_path / "shop")
    archive = shop.directory / "site.zip"
    replace_archive(archive, "one")
    path = os.pathsep.join((str(archive), *filter(None, sys.path)))
    module = {} if way == "a zipapp" else {"DJANGO_SETTINGS_MODULE": "shop.settings"}
    environ = {"PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": None, **module}
    server = shop.start("--load", load, environ=environ)
    assert server.get("/").body == "one"
    for name in ("two", "three"):
        replace_archive(archive, name)
        assert reloads(server) == name

    replace_archive(archive, "four")
    since = Since(server)
    server.kill_worker()
    since.wait("ready")
    assert server.get("/").body == ("four" if load == "lazy" else "three"), server.log


def replace_archive(archive: Path, greeting: str) -> None:
    """Put another archive in its place, in which every file is elsewhere."""
    project = make_shop(archive.parent / greeting, settings=f'GREETING = "{greeting}"')
    new = archive.with_suffix(".new")
    with zipfile.ZipFile(new, "w") as content:
        content.writestr("padding", os.urandom(1000 * len(greeting)))
        for path in sorted(project.rglob("*.py")):
            name = path.relative_to(project)
            content.write(path, "__main__.py" if name.name == "manage.py" else name, zipfile.ZIP_DEFLATED)
    new.rename(archive)


def test_what_a_failed_start_says_has_no_escapes_of_the_terminal(tmp_path):
    """The text of an exception may hold what a client or a file has brought."""
    shop = make_shop(tmp_path / "shop", settings="raise ValueError(chr(27) + '[31mred')")
    outcome = subprocess.run(
        [sys.executable, *WAYS["python -m"], "--settings", "shop.settings", "--check", "--load-retries", "1"],
        cwd=shop,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 22, outcome.stderr
    assert "ValueError: \N{REPLACEMENT CHARACTER}[31mred" in outcome.stderr
