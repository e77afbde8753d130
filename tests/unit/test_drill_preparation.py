"""What the drill reads of a site, what it changes, and when it refuses."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from django_workerguard.cli.commands import ACTS as OFFERED
from django_workerguard.cli.commands import _parser
from django_workerguard.drill.acts import ACTS
from django_workerguard.drill.configuration import Configuration, Value, parse
from django_workerguard.drill.overrides import FAULT_PROBE, environment, overrides, without_flags
from django_workerguard.drill.plain_gunicorn import conf_file, site_module
from django_workerguard.drill.preparation import load_of, serve_arguments
from django_workerguard.drill.site import Database, Site, refuse_harm
from django_workerguard.errors import ConfigurationError

PRINTED = """\
app                                   [default]
load                                lazy  [default]
warmup-path                         /,/books/  [WORKERGUARD["WARMUP_PATH"]]
notify                              ********  [WORKERGUARD["NOTIFY"] in /srv/conf.py]
load-timeout                        60.0  [default]
bind                                ['127.0.0.1:8000']  [--bind on the command line]
http2-cleartext                     off  [default]
secure-scheme-headers               {'X-FORWARDED-PROTO': 'https'}  [default]
on-exit                             <leave()>  [/srv/gunicorn.conf.py]
a line that the site has printed
"""
DIRECTORY = PurePath("/drill")


def configuration(**values: str) -> Configuration:
    return Configuration({name.replace("_", "-"): Value(text, "a test") for name, text in values.items()})


def made(found: Configuration, load_seconds: float = 0.5):
    return overrides(found, DIRECTORY, statsd="127.0.0.1:9", load_seconds=load_seconds)


def test_the_printed_configuration_is_read():
    found = parse(PRINTED)
    assert found["app"] == Value("", "default")
    assert found.words("warmup-path") == ("/", "/books/")
    assert found["warmup-path"].where == 'WORKERGUARD["WARMUP_PATH"]'
    assert found["bind"] == Value("['127.0.0.1:8000']", "--bind on the command line")
    assert found["notify"].where == 'WORKERGUARD["NOTIFY"] in /srv/conf.py'
    assert found.number("load-timeout") == 60
    assert found["http2-cleartext"].text == "off"
    assert found["on-exit"].is_set
    assert not found["load"].is_set
    assert found["unknown"] == Value("")
    with pytest.raises(ConfigurationError, match="not printed"):
        parse("nothing of use\n")


def test_nothing_of_a_running_server_is_touched():
    found = configuration(
        run_dir="/run/site",
        name="site",
        monitor_bind="127.0.0.1:9000",
        touch_reload="/srv/touch",
        notify="********",
        socket_owner="www-data",
        pidfile="/run/site.pid",
        accesslog="/var/log/site.log",
        errorlog="/var/log/error.log",
        logconfig="/etc/log.ini",
        syslog="True",
        statsd_host="('statsd', 8125)",
        on_exit="<leave()>",
        nworkers_changed="<note()>",
        load_probe="site.probes:database",
        load_timeout="5",
        protocol="uwsgi",
        proxy_protocol="v1",
    )
    changed = made(found)
    assert changed.bind == "unix:/drill/http.sock"
    assert changed.guard["run_dir"] == "/drill/run"
    assert changed.guard["load_probe"] == f"site.probes:database,{FAULT_PROBE}"
    assert [changed.guard[name] for name in ("monitor_bind", "touch_reload", "notify", "socket_owner")] == [
        "",
        "",
        "",
        "",
    ]
    assert "load_timeout" not in changed.guard, "it is short enough"
    assert {
        "--pid=/drill/pid",
        "--access-logfile=/drill/access.log",
        "--error-logfile=-",
        "--log-config=",
        "--statsd-host=127.0.0.1:9",
        "--no-control-socket",
        "--protocol=http",
        "--proxy-protocol=off",
    } == set(changed.passed_on)
    assert changed.environ == {
        "WORKERGUARD_SYSLOG": "false",
        "WORKERGUARD_ON_EXIT": "django_workerguard.drill.fault.nothing",
        "WORKERGUARD_NWORKERS_CHANGED": "django_workerguard.drill.fault.nothing_of_three",
    }
    noted = {change.option for change in changed.changes}
    assert {"pidfile", "accesslog", "notify", "monitor-bind", "on-exit", "statsd-host", "syslog"} <= noted
    assert "load-probe" not in noted


def test_a_load_timeout_is_lowered_so_that_a_hanging_load_ends_but_not_below_what_a_load_needs():
    assert made(configuration(load_timeout="60.0")).guard["load_timeout"] == "8.0"
    assert made(configuration(load_timeout="60.0"), 4.0).guard["load_timeout"] == "20.0"
    assert made(configuration(load_timeout="0.0")).guard["load_timeout"] == "8.0"
    assert "load_timeout" not in made(configuration(load_timeout="15"), 4.0).guard


def test_the_service_manager_hears_nothing():
    base = {"NOTIFY_SOCKET": "/run/x", "LISTEN_FDS": "1", "WATCHDOG_USEC": "1", "PATH": "/bin"}
    assert environment(base, made(configuration(load_timeout="5"))) == {"PATH": "/bin"}
    assert without_flags(["--log-syslog", "--threads", "2"]) == ["--threads", "2"]


SQLITE = "django.db.backends.sqlite3"


@pytest.mark.parametrize(
    ("database", "is_for_tests"),
    [
        (Database(alias="default", engine=SQLITE, name=":memory:"), True),
        (Database(alias="default", engine=SQLITE, name="file:memorydb?mode=memory&cache=shared"), True),
        (Database(alias="default", engine=SQLITE, name="/srv/db.sqlite3"), False),
        (Database(alias="default", engine=SQLITE, name="/srv/test_site.sqlite3"), True),
        (Database(alias="default", engine=SQLITE, name="/srv/test_sites/db.sqlite3"), False),
        (Database(alias="default", engine="django.db.backends.postgresql", name="site"), False),
        (Database(alias="default", engine="django.db.backends.postgresql", name=""), False),
        (Database(alias="default", engine="django.db.backends.postgresql", name="test_site"), True),
        (Database(alias="default", engine="django.db.backends.mysql", name="ci", test_name="ci"), True),
        (Database(alias="default", engine="django.db.backends.dummy", name=""), True),
        (Database(alias="default", engine="", name=""), True),
    ],
)
def test_a_database_is_for_tests_only_if_nothing_of_value_can_be_in_it(database, is_for_tests):
    assert database.is_for_tests == is_for_tests


def test_a_real_database_is_refused_with_its_alias_its_place_and_what_to_do():
    site = Site(
        module="site.settings",
        databases=(
            Database(alias="default", engine=SQLITE, name=":memory:"),
            Database(alias="orders", engine="django.db.backends.postgresql", name="orders"),
        ),
    )
    with pytest.raises(ConfigurationError) as refused:
        refuse_harm(site, read_only=False)
    message = str(refused.value)
    assert "the database 'orders' (postgresql, orders) is not a test database" in message
    assert "'default'" not in message
    assert "set in DATABASES in site.settings" in message
    assert "--settings" in message
    assert "--read-only" in message
    refuse_harm(site, read_only=True)


@pytest.mark.parametrize(
    ("hosts", "host"),
    [
        ((), "localhost"),
        (("*",), "localhost"),
        (("*", "example.org"), "example.org"),
        ((".example.org",), "example.org"),
        (("a.example", "b.example"), "a.example"),
    ],
)
def test_the_host_is_one_that_the_site_accepts(hosts, host):
    assert Site(module="site", allowed_hosts=hosts).headers["Host"] == host


def test_behind_a_proxy_the_requests_come_over_https():
    site = Site(module="site", proxy_header=("HTTP_X_FORWARDED_PROTO", "https"))
    assert site.headers["X-Forwarded-Proto"] == "https"


def test_the_check_tells_how_long_a_load_takes_and_whether_a_mold_fits():
    fit = """\
app                           238 ms     32.0 MB peak     32.0 MB kept
urlconf                        62 ms      2.6 MB peak      2.6 MB kept   without it: --warmup templates,lazy
Workers can be forked from the application.
The application loads (pid 7).
"""
    load = load_of(fit)
    assert (load.seconds, load.fits_mold, load.hazards) == (0.3, True, ())
    unfit = (
        "hazard: app: thread poller\nNo worker can be forked from the application, so with load=auto each …\n"
    )
    assert load_of(unfit).fits_mold is False
    assert load_of(unfit).hazards == ("app: thread poller",)
    assert load_of("The application loads (pid 7).").fits_mold is None


def test_the_command_offers_every_act():
    assert tuple(ACTS) == OFFERED


def test_arguments_of_serve_guarded_follow_two_dashes_and_gunicorns_follow_two_more():
    words = ["drill", "--path", "/a", "--", "-w", "4", "0.0.0.0:80", "--load", "mold", "--", "--threads", "2"]
    parsed = _parser("workerguard").parse_args(words)
    guard, server, passed_on = serve_arguments(parsed.arguments)
    assert (guard, passed_on) == ({"load": "mold"}, ["--threads", "2"])
    assert server == {"workers": "4", "bind": ["0.0.0.0:80"]}
    with pytest.raises(ConfigurationError, match="after --"):
        serve_arguments(["--no-such-option"])
    with pytest.raises(ConfigurationError, match="--check is not for the drill"):
        serve_arguments(["--check"])


def test_plain_gunicorn_gets_the_same_values_and_touches_nothing_either():
    found = configuration(threads="4", timeout="20", worker_class="gthread", pidfile="/run/site.pid")
    namespace: dict[str, object] = {}
    exec(conf_file(found, DIRECTORY, workers=3, user_file=""), namespace)
    assert [namespace[name] for name in ("workers", "threads", "timeout", "worker_class")] == [
        3,
        4,
        20,
        "gthread",
    ]
    assert namespace["pidfile"] == "/drill/plain.pid"
    assert namespace["bind"] == ["unix:/drill/http.sock"]
    assert namespace["on_exit"].__name__ == "nothing"


def test_plain_gunicorn_loads_the_same_application():
    applications = {"wsgi": "site.wsgi:application", "asgi": "site.asgi:app"}
    assert "application = _module.application" in site_module(applications, configuration())
    uvicorn = configuration(worker_class="uvicorn_worker.UvicornWorker")
    assert "import site.asgi as _module\napplication = _module.app" in site_module(applications, uvicorn)
    assert "get_wsgi_application()" in site_module({}, configuration())
    compile(site_module({}, configuration()), "site", "exec")
