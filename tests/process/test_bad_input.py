"""Whatever is wrong in a start gives one line that says what, where it was set, and an exit code."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest

from django_workerguard.errors import ExitCode
from tests.process.short_starts import MANAGE, SERVE, Outcome

FAST = ("--load-retries", "2", "--load-retry-delay", "20ms")


def assert_refused(outcome: Outcome, *said: str, code: int = ExitCode.USAGE) -> None:
    for text in said:
        assert text in outcome.error
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert outcome.left == [], "something was left in the run directory"


ON_THE_COMMAND_LINE = {
    "a count": (("--load-retries", "many"), "load-retries: 'many'", "--load-retries on the command line"),
    "a choice": (("--need-app", "maybe"), "need-app: 'maybe'", "worker, server, off"),
    "no end": (("--max-worker-lifetime", "9" * 15), "max-worker-lifetime: ", "no longer than ten years"),
    "no size": (("--reload-on-rss", "9" * 15 + "G"), "reload-on-rss: ", "no larger than a petabyte"),
    "no count": (("--max-requests", "9" * 30), "max-requests: ", "is not a whole number"),
    "a surge": (("--surge", "100000", "-w", "2"), "surge: ", "more than 1024 seats", "up to 1020"),
    "a duration": (("--load-timeout", "soon"), "load-timeout: 'soon'", "30, 1.5, 500ms, 10m or 6h"),
    "a switch": (("--stand-in", "perhaps"), "stand-in: 'perhaps'", "true, false"),
    "a path": (("--health-path", "health"), "health-path: 'health'", "/health/"),
    "a name": (("--app", "mysite"), "app: 'mysite'", "module:callable"),
    "a step": (("--warmup", "coffee"), "warmup: 'coffee'", "urlconf, templates, lazy"),
    "gunicorn's number": (("-w", "zero"), "workers: 'zero' is not a whole number", "--workers on"),
    "gunicorn's class": (("-k", "snyc"), "worker-class: 'snyc' cannot be imported", "--worker-class on"),
    "no worker": (("-w", "0"), "workers: ", "not 0"),
    "too many workers": (("-w", "4711"), "workers: ", "not 4711"),
    "an option": (("--need-ap", "x", "--lod-retries", "3"), "--lod-retries", "the command line"),
    "gunicorn's option": (("--", "--tiemout", "3"), "--tiemout", "the command line, after --"),
    "gunicorn's value": (("--", "--timeout", "x"), "--timeout", "'x'", "after --"),
    "gunicorn's positional": (("--", "site:app"), "'site:app'", "--app"),
    "a quorum": (("-w", "2", "--min-loaded", "3"), "min-loaded: a quorum of 3", "2 workers", "--workers on"),
    "preload": (("--", "--preload"), "preload-app: ", "the arbiter would load", "--preload on", "load=auto"),
    "reuse-port": (("--", "--reuse-port"), "reuse-port: ", "do not accept yet", "--reuse-port on"),
    "daemon": (("--", "--daemon"), "daemon: ", "a child of its supervisor", "--daemon on"),
    "gunicorn's check": (("--", "--check-config"), "check-config: ", "use --check"),
    "no conf file": (("-c", "nowhere.py"), "config: 'nowhere.py'", "No such file", "--config on"),
    "an address": (("--bind", "127.0.0.1:http"), "bind: 'http'", "port", "--bind on"),
    "a port that is too high": (("--bind", "127.0.0.1:99999"), "bind: 99999 is not a port", "--bind on"),
    "a port": (("70000",), "addrport: '70000'"),
    "a path that is too long": (
        ("--bind", f"unix:/tmp/{'x' * 120}"),
        "bind: the path of a unix socket has at most 107 bytes, and '/tmp/xxx",
        "has 125",
        "--bind on",
    ),
    "both addresses": (("8000", "--bind", "127.0.0.1:8001"), "'8000'", "--bind"),
    "two actions": (("--check", "--print-config"), "--check and --print-config"),
    "a run directory": (("--run-dir", "/proc/nowhere"), "run-dir: '/proc/nowhere'", "--run-dir on"),
    "a pid file": (("--", "--pid", "/nowhere/pid"), "pidfile: /nowhere", "--pid on"),
    "a log file": (
        ("--", "--error-logfile", "/nowhere/log"),
        "errorlog: '/nowhere/log'",
        "--error-logfile on",
    ),
    "a user": (("--", "--user", "nobody-at-all"), "user: ", "nobody-at-all", "--user on"),
    "a certificate": (("--", "--certfile", "/nowhere/pem"), "certfile: ", "/nowhere/pem", "--certfile on"),
}


@pytest.mark.parametrize("case", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE.keys())
def test_on_the_command_line(case, project):
    arguments, *said = case
    bind = () if "bind" in "".join(arguments) or "70000" in arguments else ("--bind", "127.0.0.1:0")
    assert_refused(project.run(*bind, *arguments), *said)


IN_THE_SETTINGS = {
    "a misspelt key": ('{"NEED_AP": "worker"}', "'NEED_AP' is not an option", "WORKERGUARD", "'NEED_APP'"),
    "a lower-case key": ('{"need_app": "worker"}', "'need_app'", "'NEED_APP'"),
    "a misspelt key of gunicorn": ('{"WORKRES": 2}', "'WORKRES'", "'WORKERS'"),
    "a value": ('{"LOAD_RETRIES": -1}', "load-retries: -1", 'WORKERGUARD["LOAD_RETRIES"]'),
    "a value of gunicorn": ('{"WORKERS": "some"}', "workers: 'some'", 'WORKERGUARD["WORKERS"]'),
    "no dictionary": ("[1, 2]", "WORKERGUARD is not a dictionary"),
    "what cannot cross": ('{"NEED_APP": print}', "WORKERGUARD", "cannot be passed", "guinea_settings"),
    "preload": ('{"PRELOAD_APP": True}', "preload-app: ", 'WORKERGUARD["PRELOAD_APP"]', "load=auto"),
    "the quorum": ('{"MIN_LOADED": 5, "WORKERS": 2}', "min-loaded: ", 'WORKERGUARD["MIN_LOADED"]'),
}


@pytest.mark.parametrize("case", IN_THE_SETTINGS.values(), ids=IN_THE_SETTINGS.keys())
def test_in_the_settings(case, project):
    setting, *said = case
    project.add_setting(f"WORKERGUARD = {setting}")
    assert_refused(project.run("--bind", "127.0.0.1:0"), *said)


def test_a_wrong_secret_is_not_shown(project):
    project.add_setting('WORKERGUARD = {"HEALTH_TOKEN": 4711}')
    outcome = project.run("--bind", "127.0.0.1:0")
    assert_refused(outcome, "health-token: the value is not understood", 'WORKERGUARD["HEALTH_TOKEN"]')
    assert "4711" not in outcome.err


IN_THE_CONF_FILE = {
    "a syntax error": ("workers = = 2", "config: ", "SyntaxError", "line 1", "--config on the command line"),
    "an exception": ("x = 1\ny = x / 0", "config: ", "ZeroDivisionError", "line 2 of"),
    "an exit": ("raise SystemExit(0)", "config: ", "SystemExit"),
    "a value": ("workers = 'many'", "workers: 'many'", "gunicorn.conf.py"),
    "a misspelt key": ('WORKERGUARD = {"NAEM": "x"}', "'NAEM'", "'NAME'", "gunicorn.conf.py"),
    "a hook": ("def pre_fork(): pass", "pre-fork: ", "gunicorn.conf.py"),
    "preload": (
        "preload_app = True",
        "preload-app: ",
        "(set in ",
        "gunicorn.conf.py",
        "Remove it, and set load=auto",
    ),
}


@pytest.mark.parametrize("case", IN_THE_CONF_FILE.values(), ids=IN_THE_CONF_FILE.keys())
def test_in_the_conf_file(case, project):
    content, *said = case
    path = project.write("my.gunicorn.conf.py", content)
    assert_refused(project.run("--bind", "127.0.0.1:0", "-c", path), *said)


IN_THE_ENVIRONMENT = {
    "of the guard": (
        {"WORKERGUARD_NEED_APP": "x"},
        "need-app: 'x'",
        "WORKERGUARD_NEED_APP in the environment",
    ),
    "of gunicorn": ({"WORKERGUARD_WORKERS": "x"}, "workers: 'x'", "WORKERGUARD_WORKERS in the environment"),
    "of a platform": ({"WEB_CONCURRENCY": "x"}, "workers: 'x'", "WEB_CONCURRENCY in the environment"),
    "a port of a platform": ({"PORT": "99999"}, "bind: 99999 is not a port", "PORT in the environment"),
    "a path": ({"WORKERGUARD_HEALTH_PATH": "x"}, "health-path: 'x'", "WORKERGUARD_HEALTH_PATH in"),
    "gunicorn's own": ({"GUNICORN_CMD_ARGS": "--workers=x"}, "--workers", "'x'", "GUNICORN_CMD_ARGS"),
    "gunicorn's file": ({"GUNICORN_CMD_ARGS": "-c nowhere.py"}, "config: 'nowhere.py'", "GUNICORN_CMD_ARGS"),
    "no settings module": ({"DJANGO_SETTINGS_MODULE": ""}, "settings: ", "DJANGO_SETTINGS_MODULE"),
}


@pytest.mark.parametrize("case", IN_THE_ENVIRONMENT.values(), ids=IN_THE_ENVIRONMENT.keys())
def test_in_the_environment(case, project):
    environ, *said = case
    bind = () if "PORT" in environ else ("--bind", "127.0.0.1:0")
    assert_refused(project.run(*bind, **environ), *said)


def test_the_variables_of_a_platform_are_gunicorns_defaults_and_empty_ones_are_none(project):
    """compose passes on an unset variable as an empty one, and gunicorn would not be imported with it."""
    outcome = project.run("--print-config", WEB_CONCURRENCY="", PORT="8123")
    shown = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert shown["workers"].endswith("1  [default]")
    assert shown["bind"].endswith("['0.0.0.0:8123']  [PORT in the environment]")


def test_an_unknown_name_in_the_environment_only_warns(project):
    """Kubernetes injects such names for a service that is called workerguard."""
    outcome = project.run("--print-config", WORKERGUARD_SERVICE_HOST="10.0.0.1")
    assert outcome.code == ExitCode.OK


def test_an_option_that_is_given_before_and_after_the_dashes_warns(project):
    outcome = project.run("-w", "2", "--check", "--", "--workers", "3")
    assert outcome.code == ExitCode.OK
    assert "workers is given before and after -- on the command line: only the first counts" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--socket-mode", "9"), "socket-mode: '9' is not a mode such as '660'"),
        (
            ("--socket-mode", "660", "--", "--umask", "7"),
            "socket-mode and gunicorn's umask both set the mode",
        ),
        (("--socket-owner", "nobody-at-all"), "socket-owner: No such user: 'nobody-at-all'"),
        (("--socket-owner", ":no-such-group"), "socket-owner: No such group: 'no-such-group'"),
        (("--socket-owner", "a b"), "socket-owner: 'a b' is not of the form user, user:group or :group"),
    ],
)
def test_the_mode_and_the_owner_of_a_socket(project, arguments, said):
    assert_refused(project.run("--bind", "127.0.0.1:0", *arguments), said)


def test_uvicorn_does_not_speak_the_uwsgi_protocol(project):
    arguments = ("-k", "uvicorn_worker.UvicornWorker", "--", "--protocol", "uwsgi")
    assert_refused(project.run("--bind", "127.0.0.1:0", *arguments), "protocol: uvicorn speaks only HTTP")


def test_an_address_in_use(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        outcome = project.run("--bind", address)
    assert_refused(
        outcome,
        f"bind: cannot listen at {address}: Address already in use",
        "--bind on the command line",
        "Another server may be listening there.",
        code=ExitCode.CANNOT_LISTEN,
    )


@pytest.mark.parametrize(
    ("address", "said"), [("fd://77", "Bad file descriptor"), ("unix:.", "is not a socket")]
)
def test_what_is_no_socket(project, address, said):
    outcome = project.run("--bind", address)
    assert_refused(outcome, f"bind: cannot listen at {address}: ", said, "--bind on the command line")


def test_a_failed_start_leaves_no_pid_file(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = project.run("--bind", "{}:{}".format(*taken.getsockname()), "--", "--pid", "server.pid")
    assert_refused(outcome, "bind: ", code=ExitCode.CANNOT_LISTEN)
    assert not (project.path / "server.pid").exists()


@pytest.mark.parametrize(
    ("address", "problem", "hint"),
    [
        ("unix:/nowhere/http.sock", "No such file or directory", "Create the directory /nowhere"),
        ("unix:/dev/null/http.sock", "Not a directory", "Create the directory /dev/null"),
        ("unix:/sys/http.sock", "", "write to the directory /sys"),
        ("[fe80::1%nosuchdevice]:8000", "", "The host must be a name or an address of this machine."),
        ("192.0.2.1:8000", "Cannot assign requested address", "The host must be a name or an address of"),
    ],
)
def test_an_address_that_is_not_ours(project, address, problem, hint):
    """Of several addresses the one that cannot be used is named."""
    outcome = project.run("--bind", "127.0.0.1:0", "--bind", address)
    assert_refused(
        outcome,
        f"bind: cannot listen at {address}: {problem}",
        "--bind on the command line",
        hint,
        code=ExitCode.CANNOT_LISTEN,
    )
    assert "Another server" not in outcome.error


WITHOUT_CHOWN = (
    "import os, sys; os.execvp('setpriv', ['setpriv', '--bounding-set=-chown', '--inh-caps=-chown', sys.executable, "
    "*sys.argv[1:]])"
)


@pytest.mark.needs("root")
def test_a_socket_that_cannot_be_given_to_the_user_of_the_workers(project, tmp_path):
    address = f"unix:{tmp_path}/http.sock"
    outcome = project.run("--bind", address, "--", "--user", "nobody", command=("-c", WITHOUT_CHOWN, *SERVE))
    assert_refused(
        outcome,
        f"bind: cannot listen at {address}: Operation not permitted",
        "cannot be given to the workers' user",
        code=ExitCode.CANNOT_LISTEN,
    )
    assert "directory" not in outcome.error


def test_a_run_directory_that_anybody_may_write_to(project, tmp_path):
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    outcome = project.run("--bind", "127.0.0.1:0", "--run-dir", str(public))
    assert_refused(
        outcome, f"run-dir: '{public}'", "every user may write to it", "--run-dir on the command line"
    )
    assert list(public.iterdir()) == []


LIMIT_FILES = (
    "import os, resource, sys; limit = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@pytest.mark.parametrize("command", [SERVE, MANAGE], ids=["python -m", "manage.py"])
@pytest.mark.parametrize(
    ("limit", "arguments", "needs"),
    [
        ("65536", (), "the scoreboard needs files of "),
        ("65536", ("--run-dir", "limited"), "the scoreboard needs files of "),
        ("65536", ("--check",), "the scoreboard needs files of "),
        ("0", (), "the configuration needs files of "),
    ],
    ids=["the default directory", "a run directory", "a check", "no file at all"],
)
def test_a_limit_of_the_size_of_files(project, command, limit, arguments, needs):
    outcome = project.run(
        *("--bind", "127.0.0.1:0", "-w", "2", *arguments), command=("-c", LIMIT_FILES, limit, *command)
    )
    assert_refused(outcome, needs, f"the limit is {int(limit) // 1024} KiB", "ulimit -f", "LimitFSIZE=")


def test_settings_that_cannot_be_imported_are_tried_again_and_end_with_22(project):
    project.write("broken_settings.py", "import a_module_that_does_not_exist")
    outcome = project.run("--settings", "broken_settings", *FAST)
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "settings: 'broken_settings' cannot be imported: ModuleNotFoundError" in outcome.error
    assert "--settings on the command line" in outcome.error
    assert outcome.err.count("retrying in") == 1
    assert "(line 1 of" in outcome.error
    assert "Traceback" not in outcome.err
    assert outcome.left == []


def test_settings_that_can_be_imported_at_the_second_try(project):
    project.write(
        "second_try.py",
        "from pathlib import Path\n"
        "if not Path('tried').exists():\n"
        "    Path('tried').touch()\n"
        "    raise MemoryError\n"
        "WORKERGUARD = {'NAME': 'second'}\n",
    )
    outcome = project.run("--settings", "second_try", "--print-config", *FAST)
    assert outcome.code == ExitCode.OK
    assert re.search(r"^name +second ", outcome.out, re.MULTILINE)


def test_the_wsgi_application_of_a_project_on_an_asgi_class(project):
    project.write(
        "wsgi.py", "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()"
    )
    outcome = project.run("--bind", "127.0.0.1:0", "-k", "asgi", "--app", "wsgi:application", *FAST)
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "WSGI" in outcome.error
    assert outcome.left == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--app", "nowhere:app", "in step app: ModuleNotFoundError: No module named 'nowhere'"),
        ("--app", "guinea_urls:app", "guinea_urls has no 'app'"),
        ("--load-probe", "nowhere:probe", "No module named 'nowhere'"),
        ("--warmup-path", "/broken", "RuntimeError: this view always fails"),
    ],
)
def test_what_cannot_be_loaded_ends_with_22_and_the_reason(option, value, said, project):
    outcome = project.run("--bind", "127.0.0.1:0", option, value, *FAST)
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "(need-app=worker)" in outcome.error
    assert said in outcome.error
    assert outcome.err.count("Traceback (") == 1, "identical failures are counted, not repeated"
    assert outcome.left == []


# the two other actions


def test_print_config_shows_every_value_and_its_source_and_no_secret(project):
    project.add_setting('WORKERGUARD["LOAD_RETRIES"] = 7')
    project.write("gunicorn.conf.py", 'threads = 3\nWORKERGUARD = {"MIN_LOADED": 2}')
    outcome = project.run(
        "--print-config",
        "--workers",
        "4",
        "--",
        "--env",
        "PASSWORD=opensesame",
        WORKERGUARD_HEALTH_TOKEN="hunter2",
        WORKERGUARD_SURGE="2",
    )
    assert outcome.code == ExitCode.OK
    shown = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert shown["load-retries"].endswith('7  [WORKERGUARD["LOAD_RETRIES"]]')
    assert shown["workers"].endswith("4  [--workers on the command line]")
    assert shown["surge"].endswith("2  [WORKERGUARD_SURGE in the environment]")
    assert shown["load-timeout"].endswith("60.0  [default]")
    assert re.search(r"3  \[.*gunicorn\.conf\.py\]$", shown["threads"])
    assert re.search(r"2  \[WORKERGUARD\[\"MIN_LOADED\"\] in .*gunicorn\.conf\.py\]$", shown["min-loaded"])
    assert shown["health-token"].endswith("********  [WORKERGUARD_HEALTH_TOKEN in the environment]")
    assert "PASSWORD=********" in shown["raw-env"]
    assert "hunter2" not in outcome.out + outcome.err
    assert "opensesame" not in outcome.out + outcome.err
    assert outcome.left == []


def test_the_order_of_the_layers(project):
    project.add_setting('WORKERGUARD |= {"WORKERS": 2, "NAME": "settings"}')
    project.write("gunicorn.conf.py", 'workers = 3\nWORKERGUARD = {"NAME": "file"}')

    def shown(*arguments: str, **environ: str) -> tuple[str, str]:
        out = project.run("--print-config", *arguments, **environ).out
        lines = {line.split()[0]: line.split()[1] for line in out.splitlines()}
        return lines["workers"], lines["name"]

    cmd_args = {"GUNICORN_CMD_ARGS": "--workers=4"}
    environ = {**cmd_args, "WORKERGUARD_WORKERS": "5", "WORKERGUARD_NAME": "environment"}
    assert shown() == ("3", "file")
    assert shown(**cmd_args) == ("4", "file")
    assert shown(**environ) == ("5", "environment")
    assert shown("--name", "line", "--", "--workers", "6", **environ) == ("6", "line")
    assert shown("-w", "7", **environ) == ("7", "environment")


def test_check_loads_the_application_once(project):
    outcome = project.run("--check")
    assert outcome.code == ExitCode.OK, outcome.err
    assert "The application loads" in outcome.out
    steps = outcome.out.splitlines()[:3]
    assert [line.split()[0] for line in steps] == ["app", "urlconf", "templates"]
    for line in steps:
        assert re.match(r"\w+ +\d+ ms +[\d.]+ MB peak +-?[\d.]+ MB kept", line), line
    assert "   without it: --warmup " in steps[2], steps
    assert outcome.left == []


def test_check_says_why_the_application_does_not_load(project):
    project.write("guinea_urls.py", "import a_module_that_does_not_exist")
    outcome = project.run("--check")
    assert outcome.code == ExitCode.LOAD_FAILED
    assert (
        "in step urlconf: ModuleNotFoundError: No module named 'a_module_that_does_not_exist'"
        in outcome.error
    )
    assert outcome.left == []


# manage.py


def test_through_manage_py(project):
    def refused(*arguments: str, **environ: str) -> Callable[..., None]:
        outcome = project.run(*arguments, command=MANAGE, **environ)
        return lambda *said: assert_refused(outcome, *said)

    refused("8000", "--bind", "127.0.0.1:8001")("'8000'", "--bind")
    refused("--load-retries", "many")("load-retries: 'many'", "--load-retries on the command line")
    refused("--", "--preload")("preload-app: ", "--preload on")
    refused("-c", "nowhere.py")("config: 'nowhere.py'")
    refused(WORKERGUARD_NEED_APP="x")("need-app: 'x'", "WORKERGUARD_NEED_APP in the environment")


def test_check_and_print_config_through_manage_py(project):
    assert "The application loads" in project.run("--check", command=MANAGE).out
    assert "command line" in project.run("--print-config", "-w", "3", command=MANAGE).out


def test_manage_py_refuses_a_misspelt_key_by_its_system_checks(project):
    project.add_setting('WORKERGUARD["NEED_AP"] = "worker"')
    outcome = project.run(command=MANAGE)
    assert outcome.code != 0
    assert "NEED_AP" in outcome.err
    assert "Did you mean 'NEED_APP'?" in outcome.err
    assert "Traceback" not in outcome.err


def test_call_command_is_refused(project):
    script = project.write(
        "caller.py",
        "import django\n"
        "from django.core.management import call_command\n"
        "from django.core.management.base import CommandError\n"
        "django.setup()\n"
        "try:\n"
        "    call_command('serve_guarded')\n"
        "except CommandError as error:\n"
        "    print('refused:', error)\n"
        "print('the caller lives')\n",
    )
    outcome = project.run(command=(script,))
    assert outcome.code == 0, outcome.err
    assert "refused: serve_guarded replaces the process that runs it" in outcome.out
    assert "the caller lives" in outcome.out
