"""Both ways of starting give the same server, and a reload that succeeds runs the new everything."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from django_workerguard.config.handover import EARLY_SIGNALS
from django_workerguard.errors import ExitCode
from django_workerguard.probe.process import start_time
from tests.process.commands import order
from tests.process.harness import ROOT, TIMEOUT, Server, Since
from tests.process.shop import (
    MANAGE_PY,
    READ_ENV_FILE,
    SETTINGS,
    URLS,
    WAYS,
    WSGI,
    Shop,
    make_shop,
    point_at,
    reloads,
    write,
)

# the environment


IN_TOKYO = (
    READ_ENV_FILE
    + """
    GREETING = os.environ["GREETING"]
    TIME_ZONE = "Asia/Tokyo"
"""
)


@pytest.mark.timeout(240)
def test_one_life_of_a_server_up_to_sigusr2(shop, subtests):
    shop.make(settings=IN_TOKYO + "    DEBUG = True\n")
    shop.write(".env", "GREETING=one\n")
    server = shop.start("--", "--env", "UNUSED=1")

    with subtests.test("the log is not in the time zone of the settings"):
        arbiter = f"[{server.arbiter}]"
        lines = [line for line in server.log.splitlines() if arbiter in line]
        assert lines
        assert not [line for line in lines if "+0900" in line]

    with subtests.test("settings for development are reported"):
        assert "DEBUG is True in the settings (shop.settings)" in server.log
        assert "the settings shop.settings have DEBUG = True" in order(server, "status").stdout
        shop.write("shop/settings.py", textwrap.dedent(SETTINGS) + textwrap.dedent(IN_TOKYO))
        assert reloads(server) == "one"
        assert "DEBUG = True" not in order(server, "status").stdout

    whole = (shop.directory / "shop" / "settings.py").read_text()
    with subtests.test("the secrets of settings that cannot be imported are not shown"):
        assert_secrets_are_not_shown(shop, server)
    put_back(shop, server, whole)

    with subtests.test("no worker inherits what is read for a reload"):
        assert_no_worker_inherits_what_is_read(shop, server, whole)
    put_back(shop, server, whole)

    with subtests.test("SIGUSR2 reads everything anew"):
        old = server.arbiter
        shop.write(".env", "GREETING=two\n")
        server.signal(signal.SIGUSR2)
        server.wait("the second", lambda status: status["arbiter"]["pid"] != old and status["ready"] == 1)
        assert server.stop() == 0
        assert server.get("/").body == "two"
        assert reloads(server) == "two"


def put_back(shop: Shop, server: Server, settings: str) -> None:
    """Write the settings that can be used, and wait until the reload that was refused has been tried again."""
    shop.write("shop/settings.py", settings)
    server.wait(
        "a retry",
        lambda status: (
            status["arbiter"]["refused_reload"] is None
            and {slot["generation"] for slot in status["slots"]} == {status["arbiter"]["generation"]}
        ),
    )


SECRET = "postgres://shop:hunter22@db/shop"


def assert_secrets_are_not_shown(shop: Shop, server: Server) -> None:
    since = Since(server)
    shop.change(
        "shop/settings.py",
        'GREETING = "one"',
        f'API_KEY = "correct-horse"\nraise ValueError("no {SECRET}, " + API_KEY)\n',
    )
    outcome = order(server, "reload", "--wait")
    assert outcome.returncode == ExitCode.REFUSED
    refused = since.wait("reload-refused")
    said = outcome.stderr + server.log + str(refused)
    assert "ValueError: no postgres://shop:" in refused["reason"]
    assert "hunter22" not in said
    assert "correct-horse" not in said


HANG = """
    import sys, time

    if "--help" in sys.argv or "settings_reader" in " ".join(sys.orig_argv):
        Path("reading").write_text(str(os.getpid()))
        time.sleep(3600)
"""


def assert_no_worker_inherits_what_is_read(shop: Shop, server: Server, settings: str) -> None:
    since = Since(server)
    shop.write("shop/settings.py", settings + textwrap.dedent(HANG))
    order(server, "reload")
    reading = shop.directory / "reading"
    server._poll("the settings are read", lambda: reading.exists() and reading.read_text(), TIMEOUT)
    server.kill_worker()
    since.wait("ready")
    opened = [os.readlink(path) for path in Path(f"/proc/{server.pids()[0]}/fd").iterdir()]
    assert not [name for name in opened if "workerguard-settings" in name or "workerguard-handover" in name]
    os.kill(int(reading.read_text()), signal.SIGKILL)  # a reader that ends refuses its reload
    since.wait("reload-refused")


def test_what_manage_py_alone_prepares_is_there_and_renewed(serve, tmp_path):
    """The environment file is read by manage.py, and neither by the settings nor by the WSGI module."""
    shop = Shop(serve, WAYS["manage.py"], tmp_path / "shop")
    shop.make(
        settings='GREETING = os.environ["GREETING"]',
        manage="import os\nfrom pathlib import Path\n\nHERE = Path(__file__).resolve().parent\n"
        + textwrap.dedent(READ_ENV_FILE)
        + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")),
    )
    shop.write("gunicorn.conf.py", 'import os\n\nproc_name = os.environ["GREETING"]\n')
    shop.write(".env", "GREETING=one")
    server = shop.start()
    assert server.get("/").body == "one"
    shop.write(".env", "GREETING=two")
    assert reloads(server) == "two"
    server.kill_worker()
    server.wait_event("ready", count=3)
    assert server.get("/").body == "two"


CHANGES_DIRECTORY = {
    "manage.py": "import os\n\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\n",
    "the settings": "",
}


@pytest.mark.parametrize("who", CHANGES_DIRECTORY)
@pytest.mark.parametrize("path", ["shop/manage.py", "manage.py"])
def test_a_project_that_changes_the_working_directory(serve, tmp_path, who, path):
    """The name of manage.py on the command line is relative to another directory then."""
    settings = 'GREETING = os.environ["GREETING"]\n'
    if who == "the settings":
        settings += '(HERE / "data").mkdir(exist_ok=True)\nos.chdir(HERE / "data")\n'
    project = make_shop(
        tmp_path / "shop",
        settings=settings,
        manage=CHANGES_DIRECTORY[who]
        + "import os\nfrom pathlib import Path\n\nHERE = Path(__file__).resolve().parent\n"
        + textwrap.dedent(READ_ENV_FILE)
        + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")),
    )
    write(project, {".env": "GREETING=one", "gunicorn.conf.py": "workers = 2\n"})
    start = tmp_path if "/" in path else project
    environ = {"DJANGO_SETTINGS_MODULE": None, "PWD": str(start)}
    server = serve(project=start, command=(path, "serve_guarded"), environ=environ, workers=None)
    server.wait_ready(2)
    assert f"configuration file: {project}/gunicorn.conf.py" in server.log
    assert server.status()["name"] == "shop"
    write(project, {".env": "GREETING=two"})
    assert reloads(server) == "two"


def test_a_manage_py_that_another_program_runs(serve, tmp_path):
    """Such as a profiler or a debugger: the program that Python was started with is not the project's then."""
    project = make_shop(
        tmp_path / "shop",
        settings='GREETING = os.environ["GREETING"]\n',
        manage="import os\nfrom pathlib import Path\n\nHERE = Path(__file__).resolve().parent\n"
        + textwrap.dedent(READ_ENV_FILE)
        + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")),
    )
    write(project, {".env": "GREETING=one"})
    command = ("-m", "cProfile", "manage.py", "serve_guarded")
    server = serve(project=project, command=command, environ={"DJANGO_SETTINGS_MODULE": None}, workers=1)
    server.wait_ready()
    write(project, {".env": "GREETING=two"})
    assert reloads(server) == "two"


def test_a_secret_that_the_settings_take_out_of_the_environment(shop):
    """manage.py may import them before Django reads them."""
    shop.environ = {"SECRET": "s"}
    shop.make(
        settings='SECRET = os.environ.pop("SECRET")\n',
        manage="import shop.settings\n" + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")),
    )
    server = shop.start()
    assert reloads(server) == "one"


HOOK = """

def nworkers_changed(server, new, old):
    import shop.settings
"""


def test_an_env_file_that_gunicorn_conf_py_reads_is_renewed(shop):
    """A hook imports the project while the server runs: without a renewal the workers inherit the old settings."""
    shop.make(settings='GREETING = os.environ["GREETING"]' if not shop.by_manage_py else "")
    if shop.by_manage_py:  # it imports the settings before any configuration of gunicorn is read
        shop.change("shop/settings.py", 'GREETING = "one"', 'GREETING = os.environ.get("GREETING", "none")')
    shop.write(
        "gunicorn.conf.py",
        "import os\nfrom pathlib import Path\n\nHERE = Path(__file__).resolve().parent\n"
        + textwrap.dedent(READ_ENV_FILE)
        + HOOK,
    )
    shop.write(".env", "GREETING=one")
    server = shop.start()
    assert server.get("/").body == "one"
    shop.write(".env", "GREETING=two")
    assert reloads(server) == "two"


# what the configuration imports


def test_a_configuration_that_imports_the_settings(shop, subtests):
    conf = (
        "import shop.settings\n\nlogconfig_dict = shop.settings.LOGGING\nproc_name = shop.settings.GREETING\n"
    )
    shop.make(settings='LOGGING = {"version": 1, "disable_existing_loggers": False}')
    shop.write("gunicorn.conf.py", conf)
    server = shop.start()
    with subtests.test("they are imported anew"):
        assert "the configuration imports shop in the arbiter" in server.log
        shop.change("shop/settings.py", '"one"', '"two"')
        assert reloads(server) == "two"

    with subtests.test("a refused reload leaves what the configuration imported"):
        since = Since(server)
        shop.write("gunicorn.conf.py", "import shop.settings\n\npidfile = 'other.pid'\n")
        outcome = order(server, "reload", "--wait")
        assert outcome.returncode == ExitCode.REFUSED, outcome
        assert server.get("/").body == "two"
        server.kill_worker()
        since.wait("ready")
        assert server.get("/").body == "two"

    with subtests.test("the next reload imports them anew"):
        shop.write("gunicorn.conf.py", conf)
        shop.change("shop/settings.py", '"two"', '"three"')
        assert reloads(server) == "three"


@pytest.mark.parametrize(
    "conf", ["from shop.settings import GREETING\n", "worker_class = 'shop.workers.Worker'\n"]
)
def test_a_project_that_is_installed_and_that_the_configuration_imports(serve, tmp_path, conf):
    """It is the site's own, wherever it lies."""
    installed = tmp_path / "venv" / "site-packages"
    make_shop(
        installed,
        shop__workers="import shop.settings\nfrom gunicorn.workers.sync import SyncWorker as Worker\n",
    )
    shop = Shop(serve, WAYS["python -m"], tmp_path / "etc", {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"})
    shop.write("gunicorn.conf.py", conf)
    server = shop.start()
    assert "the configuration imports shop in the arbiter" in server.log
    settings = installed / "shop" / "settings.py"
    settings.write_text(settings.read_text().replace('"one"', '"two"'))
    assert reloads(server) == "two"


def test_a_module_that_sitecustomize_imports(shop):
    """Python runs it in every process that it starts, and so before the server."""
    shop.make(settings="import shop.early\n\nGREETING = shop.early.TEXT\n", shop__early='TEXT = "one"\n')
    shop.write("start/sitecustomize.py", "import shop.early\n")
    path = os.pathsep.join((str(shop.directory / "start"), str(shop.directory), *filter(None, sys.path)))
    server = shop.start(environ={"PYTHONPATH": path})
    assert server.get("/").body == "one"
    for old, new in (("one", "two"), ("two", "three")):
        shop.change("shop/early.py", old, new)
        assert reloads(server) == new
    assert server.log.count("(such as sitecustomize) or the configuration imports shop in the arbiter") == 1


LEFT = {
    "a thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n",
    "an exit hook": "import atexit, time\natexit.register(time.sleep, 3600)\n",
}
# the worker has it too, and is given a second to leave
LEAVING = ("--load-timeout", "30", "--worker-reload-mercy", "1")


def test_classes_of_the_project_and_an_env_file_and_a_thread_of_the_settings(shop, subtests):
    """The arbiter imports the classes, and not the settings."""
    shop.make(
        settings=LEFT["a thread"] + textwrap.dedent(READ_ENV_FILE) + '\nGREETING = os.environ["GREETING"]\n',
        shop__workers="""
            from gunicorn.workers.sync import SyncWorker

            MARK = "one"

            class Worker(SyncWorker):
                def run(self):
                    self.log.info("the worker class is of release %s", MARK)
                    super().run()
        """,
        shop__loggers="""
            from gunicorn.glogging import Logger as Base

            MARK = "one"

            class Logger(Base):
                def info(self, text, *values, **more):
                    super().info(f"logger {MARK}: {text}", *values, **more)
        """,
    )
    shop.write("shop/__init__.py", "import django.conf\n")
    shop.write(".env", "GREETING=one GONE=1\n")
    server = shop.start("-k", "shop.workers.Worker", *LEAVING, "--", "--logger-class", "shop.loggers.Logger")
    with subtests.test("the first release"):
        server.wait_log("the worker class is of release one")
        server.wait_log("logger one: ")
        assert server.get("/").body == "one"
    shop.change("shop/workers.py", '"one"', '"two"')
    shop.change("shop/loggers.py", '"one"', '"two"')
    shop.write(".env", "GREETING=two\n")
    with subtests.test("a reload reads the env file of the settings anew"):
        assert reloads(server) == "two"
    with subtests.test("a reload imports the classes anew"):
        server.wait_log("the worker class is of release two")
        server.wait_log("logger two: ")
        assert server.log.count("the configuration imports django, shop in the arbiter") == 2
    with subtests.test("a thread that the settings leave behind delays no reload"):
        assert "next try" not in server.log


# where the project is


PLACES = {
    "manage.py by its path": lambda current: (
        (str(current / "manage.py"), "serve_guarded"),
        Path("/"),
        {"DJANGO_SETTINGS_MODULE": None},
    ),
    "manage.py in the directory": lambda current: (
        WAYS["manage.py"],
        current,
        {"DJANGO_SETTINGS_MODULE": None, "PWD": str(current)},
    ),
    "python -m, PWD is set": lambda current: (WAYS["python -m"], current, {"PWD": str(current)}),
    "python -m, as a service manager starts it": lambda current: (WAYS["python -m"], current, {"PWD": None}),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("releases", ["", "releases"], ids=["beside", "above"])
def test_a_link_that_points_at_the_next_release(serve, tmp_path, place, releases):
    site = tmp_path / "site"
    for name in ("one", "two"):
        make_shop(
            site / releases / name,
            settings=f'GREETING = "{name}"',
            shop__urls=URLS.replace(
                "HttpResponse(settings.GREETING)", f'HttpResponse(settings.GREETING + "/{name}")'
            ),
        )
    current = site / "current"
    point_at(current, site / releases / "one")
    command, directory, environ = place(current)
    environ = {"DJANGO_SETTINGS_MODULE": "shop.settings", **environ}
    server = serve(project=directory, command=command, environ=environ, workers=1)
    server.wait_ready()
    assert server.get("/").body == "one/one"
    point_at(current, site / releases / "two")
    assert reloads(server) == "two/two"
    assert server.status()["project"] == str(current)
    server.kill_worker()
    server.wait_event("ready", count=3)
    assert server.get("/").body == "two/two"


def test_the_configuration_beside_manage_py_is_read_from_anywhere(serve, tmp_path):
    project = make_shop(tmp_path / "shop")
    write(project, {"gunicorn.conf.py": "workers = 2\n"})
    server = serve(
        project=Path("/"),
        command=(str(project / "manage.py"), "serve_guarded"),
        environ={"DJANGO_SETTINGS_MODULE": None},
        workers=None,
    )
    server.wait_ready(2)
    assert f"configuration file: {project}/gunicorn.conf.py" in server.log


# gunicorn's options that must come before the settings


EARLY = {
    "options": (("--", "--chdir", "inner", "--pythonpath", "lib", "--env", "SECRET=s"), "", {}),
    "gunicorn.conf.py": ((), 'chdir = "inner"\npythonpath = "lib"\nraw_env = ["SECRET=s"]\n', {}),
    "GUNICORN_CMD_ARGS": (
        (),
        "",
        {"GUNICORN_CMD_ARGS": "--chdir inner --pythonpath lib --env SECRET=s"},
    ),
}


@pytest.mark.parametrize("case", EARLY.values(), ids=EARLY.keys())
def test_early_options_are_in_effect_before_the_settings(shop, case, subtests):
    """manage.py needs settings that it can import without them; what they say comes from them all the same."""
    arguments, configuration, environ = case
    shop.make(
        settings="""
            try:
                import greeting
            except ImportError:
                GREETING = "none"
            else:
                GREETING = greeting.TEXT + os.environ.get("SECRET", "") + Path.cwd().name
                WORKERGUARD = {"NAME": GREETING}
        """,
        lib__greeting='TEXT = "one"',
        inner__marker="",
        b__x="",
    )
    if not shop.by_manage_py:
        shop.change("shop/settings.py", "except ImportError", "except ZeroDivisionError")
    (shop.directory / "inner" / "lib").symlink_to(shop.directory / "lib")
    if configuration:
        shop.write("gunicorn.conf.py", configuration)
    server = shop.start(*arguments, environ=environ)
    with subtests.test("they are in effect at the start and renewed by a reload"):
        assert server.get("/").body == "onesinner"
        assert server.status()["name"] == "onesinner", "the process that reads the settings has them too"
        shop.change("lib/greeting.py", '"one"', '"one"  # renewed')
        assert reloads(server) == "onesinner"
    if configuration:
        with subtests.test("a reload changes them"):
            settings = 'GREETING = os.environ.get("SECRET", "") + Path.cwd().name\n'
            name = 'WORKERGUARD = {"NAME": "onesinner"}\n'  # which a reload cannot change
            shop.write("shop/settings.py", textwrap.dedent(SETTINGS) + settings + name)
            shop.write("gunicorn.conf.py", 'chdir = "b"\nraw_env = ["SECRET=2"]\n')
            assert reloads(server) == "2b"
            shop.write("gunicorn.conf.py", "")
            assert reloads(server) == shop.directory.name


def test_the_settings_that_raw_env_names(serve, tmp_path):
    shop = Shop(serve, WAYS["python -m"], tmp_path / "shop")
    shop.make()
    shop.write("gunicorn.conf.py", 'raw_env = ["DJANGO_SETTINGS_MODULE=shop.settings"]\n')
    server = shop.start(environ={"DJANGO_SETTINGS_MODULE": None})
    shop.change("shop/settings.py", '"one"', '"two"')
    assert reloads(server) == "two"


# settings that are not a plain module


def test_settings_in_classes(shop):
    """django-configurations: only manage.py and the WSGI module know how to read them."""
    shop.make(
        manage="""
            import os
            import sys

            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

            from configurations.management import execute_from_command_line

            execute_from_command_line(sys.argv)
        """,
        shop__wsgi=WSGI.replace("django.core.wsgi", "configurations.wsgi"),
    )
    shop.write(
        "shop/settings.py",
        """
        from configurations import Configuration

        class Production(Configuration):
            SECRET_KEY = "x" * 50
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "shop.urls"
            WSGI_APPLICATION = "shop.wsgi.application"
            INSTALLED_APPS = ["django_workerguard"]
            MIDDLEWARE = ["django_workerguard.middleware.GuardMiddleware"]
            GREETING = "one"
            WORKERGUARD = {"MIN_LOADED": 2, "WORKERS": 2}
        """,
    )
    server = shop.start(workers=None, environ={"DJANGO_CONFIGURATION": "Production"})
    assert server.status()["min_loaded"] == 2
    shop.change("shop/settings.py", '"one"', '"two"')
    shop.change("shop/settings.py", '"MIN_LOADED": 2', '"MIN_LOADED": 1')
    assert reloads(server) == "two"
    assert server.status()["min_loaded"] == 1


def test_settings_outside_of_the_module(shop, subtests):
    """dynaconf: it puts an object of its own in place of Django's settings. They leave an exit hook behind, too."""
    dynaconf = "import dynaconf\nsettings = dynaconf.DjangoDynaconf(__name__)\n"
    shop.make(settings=LEFT["an exit hook"] + dynaconf)
    shop.write("shop/settings.json", '{"default": {"GREETING": "one", "WORKERGUARD": {"NAME": "first"}}}')
    environ = {"DJANGO_ENV": "default", "SETTINGS_FILE_FOR_DYNACONF": "shop/settings.json"}
    server = shop.start(*LEAVING, environ=environ)
    with subtests.test("they are in effect"):
        assert server.get("/").body == "one"
        assert server.status()["name"] == "first"
    with subtests.test("a reload reads them anew"):
        shop.write("shop/settings.json", '{"default": {"GREETING": "two", "WORKERGUARD": {"NAME": "first"}}}')
        assert reloads(server) == "two"
    with subtests.test("an exit hook that the settings leave behind delays no reload"):
        assert "next try" not in server.log


def test_a_manage_py_that_cannot_be_run_again(serve, tmp_path):
    """The settings are read without it, with what it has set in the environment and they have not."""
    shop = Shop(serve, WAYS["manage.py"], tmp_path / "shop")
    shop.make(
        settings=READ_ENV_FILE + '\n    GREETING = os.environ["PREPARED"] + os.environ["GREETING"]\n',
        manage="import os\n\nif os.environ.get('PYTHONPATH', '').startswith('/'):\n    raise ValueError\n"
        "os.environ['PREPARED'] = 'prepared '\n"
        + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")),
    )
    shop.write(".env", "GREETING=one")
    server = shop.start(environ={"PYTHONPATH": f":{ROOT}"})
    assert server.get("/").body == "prepared one"
    shop.write(".env", "GREETING=two")
    assert reloads(server) == "prepared two"


def test_a_manage_py_that_becomes_another_process(serve, tmp_path):
    """It changes to the interpreter of a virtual environment: the settings are read without it then."""
    shop = Shop(serve, WAYS["manage.py"], tmp_path / "shop")
    become = (
        "import os, sys\n"
        "if 'AGAIN' not in os.environ:\n"
        "    os.environ['AGAIN'] = '1'\n"
        "    os.execv(sys.executable, [sys.executable, *sys.argv])\n"
    )
    shop.make(manage=become + textwrap.dedent(MANAGE_PY.format(settings="shop.settings")))
    server = shop.start()
    shop.change("shop/settings.py", '"one"', '"two"')
    assert reloads(server) == "two"


# while the settings are read


def pending(pid: int) -> int:
    """Return the signals that a process has still to take; 0 if it has ended by one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return sum(int(mask, 16) for mask in re.findall(r"^(?:Sig|Shd)Pnd:\s+(\w+)", status, re.MULTILINE))


def test_a_start_can_be_stopped_while_it_reads_the_settings(shop):
    shop.make(settings=HANG)
    module = None if shop.by_manage_py else "shop.settings"
    server = shop.serve(
        project=shop.directory, command=shop.command, environ={"DJANGO_SETTINGS_MODULE": module}
    )
    reading = shop.directory / "reading"
    server._poll("the settings are read", lambda: reading.exists() and reading.read_text(), TIMEOUT)
    pid = int(reading.read_text())
    for number in EARLY_SIGNALS:  # a hangup of the whole group, for example
        server.process.send_signal(number)
        os.kill(pid, number)
    server._poll("they are delivered", lambda: not pending(pid) and not pending(server.process.pid), TIMEOUT)
    assert start_time(pid), "it reads on"
    assert server.stop() == 0
    assert "Traceback" not in server.log
    server._poll("the process has ended", lambda: not start_time(pid), TIMEOUT)


# files


def test_pid_files_and_a_kernel_that_refuses_memfd_create(shop, tmp_path, subtests):
    """The configuration uses Django's settings."""
    shop.make()
    write(
        tmp_path / "refusing",
        {
            "sitecustomize.py": """
                import errno, os

                def refuse(*arguments):
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

                os.memfd_create = refuse
            """
        },
    )
    path = os.pathsep.join((str(tmp_path / "refusing"), str(ROOT)))
    shop.write("gunicorn.conf.py", "from django.conf import settings\n\nproc_name = settings.GREETING\n")
    shop.write("server.pid", f"{os.getppid()}\n")  # it runs, and is no server
    module = {"DJANGO_SETTINGS_MODULE": "shop.settings"}
    server = shop.start("--", "--pid", "server.pid", environ={**module, "PYTHONPATH": path})
    pid_file = shop.directory / "server.pid"

    with subtests.test("a stale pid file does not stop the start"):
        server.wait_log("server.pid was stale and has been removed")
        assert int(pid_file.read_text()) == server.arbiter

    with subtests.test("the pid file of a server that runs"):
        arguments = ("--", "--pid", "server.pid")
        second = shop.serve(*arguments, project=shop.directory, command=shop.command, environ=module)
        assert second.wait_exit() == ExitCode.CANNOT_LISTEN
        assert re.search(r"^Error: pidfile: the server with pid \d+ runs", second.log, re.MULTILINE)
        assert "Traceback" not in second.log

    with subtests.test("a configuration that uses Django's settings, and a kernel that refuses memfd_create"):
        assert "the configuration imports django, shop in the arbiter" in server.log
        shop.change("shop/settings.py", '"one"', '"two"')
        assert reloads(server) == "two"

    with subtests.test("the stop removes the pid file"):
        assert server.stop() == 0
        assert not pid_file.exists()
