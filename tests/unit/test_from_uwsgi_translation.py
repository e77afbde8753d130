"""What becomes of uWSGI's options, and of twenty configurations as sites have them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.from_uwsgi.directive import Directive, Place
from django_workerguard.from_uwsgi.formats import FORMATS
from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.from_uwsgi.read.reader import read
from django_workerguard.from_uwsgi.read.settings_module import settings_module
from django_workerguard.from_uwsgi.report import report, summary
from django_workerguard.from_uwsgi.table import Verdict, load_table
from django_workerguard.from_uwsgi.translate.translation import RULES, ReportLine, Translation, translate

TABLE = load_table()
FILES = sorted((Path(__file__).parent / "uwsgi_files").iterdir())


def of_file(path: Path) -> Translation:
    machine = Machine(environ={"PORT": "8000", "UWSGI_WORKERS": "4"}, directory=str(path.parent))
    return translate(read([str(path)], [], machine=machine, table=TABLE), TABLE)


def of(*lines: str) -> Translation:
    pairs = [line.partition("=") for line in lines]
    directives = [
        Directive(Place("a.ini", number), key.strip(), value.strip(), value.strip())
        for number, (key, _, value) in enumerate(pairs, 1)
    ]
    return translate(directives, TABLE)


def line(*lines: str, at: int = -1) -> ReportLine:
    return of(*lines).report[at]


# twenty configurations


def lines_of(path: Path) -> set[int]:
    """The numbers of the lines that say something."""
    numbered = enumerate(path.read_text().splitlines(), 1)
    return {
        number for number, text in numbered if text.strip() and not text.strip().startswith(("#", ";", "["))
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_line_is_lost_in_silence(path):
    translation = of_file(path)
    ours = [one for one in translation.report if one.place.file == str(path)]
    if path.suffix == ".ini":
        assert lines_of(path) <= {one.place.line for one in ours}
    assert len({one.place for one in translation.report}) == len(translation.report), "one line for each"
    for one in translation.report:
        assert one.explanation, one
        assert str(one.place) in report(translation)


def test_nearly_every_line_has_its_place():
    assert len(FILES) >= 20
    lines = [one for path in FILES for one in of_file(path).report]
    placed = [one for one in lines if one.verdict is not Verdict.UNKNOWN]
    assert len(placed) / len(lines) >= 0.95
    lost = [one for one in lines if one.verdict is Verdict.LOST]
    assert len(lost) / len(lines) <= 0.05


@pytest.mark.parametrize(
    ("name", "text", "from_cpus"),
    [
        ("a.ini", "[uwsgi]\nprocesses = %k\n", True),
        ("a.ini", "[uwsgi]\nset-placeholder = cpus=%k\nworkers = %(cpus * 2)\n", True),
        ("a.ini", "[uwsgi]\nn = %k\nm = %(n)\nworkers = %(m)\n", True),
        ("a.ini", "[uwsgi]\n; 100%\n; of the line above\nprocesses = %k\n", True),
        ("a.yaml", "uwsgi:\n  processes: %k\n", True),
        ("a.xml", "<uwsgi>\n<processes>%k</processes>\n</uwsgi>\n", True),
        ("a.ini", "[uwsgi]\noffload-threads = %k\nprocesses = 3\n", False),
        ("a.ini", "[uwsgi]\nprocesses = 3 %%k\n", False),
    ],
)
def test_a_number_of_workers_that_comes_from_the_cpus_says_so(tmp_path, name, text, from_cpus):
    (tmp_path / name).write_text(text)
    machine = Machine(directory=str(tmp_path), cpus=3)
    translation = translate(read([str(tmp_path / name)], [], machine=machine, table=TABLE), TABLE)
    assert translation.settings["WORKERS"] in (3, 6)
    explanation = next(one.explanation for one in translation.report if "WORKERS" in one.explanation)
    assert ("(%k); on another machine, WORKERS = auto" in explanation) is from_cpus


def test_an_include_and_its_sections():
    translation = of_file(next(path for path in FILES if path.name == "included.ini"))
    assert translation.settings["MAX_REQUESTS"] == 4000
    assert translation.settings["BIND"] == ["unix:/run/included/http.sock"]
    assert translation.settings["APP"] == "included.wsgi:application"
    unread = [one for one in translation.report if "does not read" in one.explanation]
    assert [one.text.partition(" ")[0] for one in unread] == ["ini", "workers"]


def test_a_block_that_is_not_met_here_is_pointed_out():
    path = next(path for path in FILES if path.name == "stages.ini")
    assert any("--env" in note for note in of_file(path).notes)
    machine = Machine(environ={"PRODUCTION": "1"}, directory=str(path.parent))
    translation = translate(read([str(path)], [], machine=machine, table=TABLE), TABLE)
    assert translation.settings["WORKERS"] == 8
    assert of_file(path).settings["WORKERS"] == 1


def test_secrets_of_the_environment_are_not_in_the_report():
    translation = of_file(next(path for path in FILES if path.name == "ansible.ini"))
    assert "not-for-the-report" not in report(translation) + FORMATS["settings"](translation)
    assert "hunter2" not in report(translation) + FORMATS["settings"](translation)
    assert translation.environ["SECRET_KEY"] == "not-for-the-report"


def test_secrets_of_placeholders_and_in_addresses_are_not_in_the_report(tmp_path):
    (tmp_path / "a.ini").write_text(
        "[uwsgi]\ndb_password = not-for-the-report\nset-ph = secret_key=not-for-the-report\n"
        "smtp_password = not-for-the-report\nalarm = a curl:smtp://me:not-for-the-report@mail\n"
        "env = SECRET_KEY=%(secret_key)%(db_password)\nkeyfile = x\nhttps-socket = :443,a.pem,a.key\n"
    )
    text = report(of_file(tmp_path / "a.ini"))
    assert "not-for-the-report" not in text
    assert "https-socket = :443,a.pem,a.key" in text


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ('import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "site.prod")\n', "site.prod"),
        ("from os import environ\nenviron['DJANGO_SETTINGS_MODULE'] = 'site.two'\n", "site.two"),
        ("import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', os.environ['X'])\n", "site.settings"),
        ("this is no Python", "site.settings"),
        ("raise SystemExit", "site.settings"),
        (None, "site.settings"),
    ],
)
def test_the_settings_module_is_that_of_the_wsgi_module(tmp_path, text, module):
    """The server reads the settings before it loads the application, which names them in uWSGI's world."""
    (tmp_path / "site").mkdir()
    if text is not None:
        (tmp_path / "site" / "wsgi.py").write_text(text)
    (tmp_path / "a.ini").write_text(f"[uwsgi]\nchdir = {tmp_path}\nmodule = site.wsgi\nlazy-apps = 1\n")
    machine = Machine(directory="/")
    directives = read([str(tmp_path / "a.ini")], [], machine=machine, table=TABLE)
    translation = translate(directives, TABLE, partial(settings_module, machine))
    assert translation.environ == {"DJANGO_SETTINGS_MODULE": module}
    assert any(module in note for note in translation.notes)


def test_a_settings_module_that_is_not_known_is_pointed_out():
    assert any("DJANGO_SETTINGS_MODULE" in note for note in of("module=app", "lazy-apps=1").notes)
    assert of("module=a.wsgi", "env=DJANGO_SETTINGS_MODULE=b").environ == {"DJANGO_SETTINGS_MODULE": "b"}


# single options


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        (["processes=4"], {"WORKERS": 4}),
        (["workers=4 ; a comment"], {"WORKERS": 4}),
        (["threads=8"], {"WORKER_CLASS": "gthread", "THREADS": 8}),
        (["gevent=200", "threads=4"], {"WORKER_CLASS": "gevent", "WORKER_CONNECTIONS": 200}),
        (["harakiri=30", "threads=2"], {"REQUEST_TIMEOUT": 30}),
        (["harakiri=30"], {"REQUEST_TIMEOUT": 30, "TIMEOUT": 60}),
        ([], {"TIMEOUT": 0}),
        (["max-requests=5", "max-requests-delta=1"], {"MAX_REQUESTS": 5, "MAX_REQUESTS_DELTA": 1}),
        (["max-worker-lifetime=60", "reload-on-rss=300"], {"MAX_WORKER_LIFETIME": 60, "RELOAD_ON_RSS": 300}),
        (["evil-reload-on-rss=400", "min-worker-lifetime=5"], {"EVIL_RELOAD_ON_RSS": 400, "MIN_WORKER_LIFETIME": 5}),
        (["reload-mercy=8"], {"WORKER_RELOAD_MERCY": 8}),
        (["reload-mercy=8", "worker-reload-mercy=9"], {"WORKER_RELOAD_MERCY": 9}),
        (["need-app"], {"NEED_APP": "server"}),
        (["need-app=false"], {"NEED_APP": "off"}),
        (["master"], {"LOAD": "auto"}),
        (["http=:8000"], {"BIND": ["0.0.0.0:8000"]}),
        (["http-socket=[::1]:80"], {"BIND": ["[::1]:80"]}),
        (["socket=/run/a.sock"], {"BIND": ["unix:/run/a.sock"], "PROTOCOL": "uwsgi"}),
        (["socket=/run/a.sock", "protocol=http"], {"BIND": ["unix:/run/a.sock"]}),
        (["https=:443,/c.pem,/k.pem"], {"BIND": ["0.0.0.0:443"], "CERTFILE": "/c.pem", "KEYFILE": "/k.pem"}),
        (["listen=1024"], {"BACKLOG": 1024}),
        (["buffer-size=65535"], {"LIMIT_REQUEST_LINE": 8190, "LIMIT_REQUEST_FIELD_SIZE": 65535}),
        (["buffer-size=4096"], {"LIMIT_REQUEST_LINE": 4096, "LIMIT_REQUEST_FIELD_SIZE": 8190}),
        (["chmod-socket=660"], {"SOCKET_MODE": "660"}),
        (["chmod-socket"], {"SOCKET_MODE": "666"}),
        (["socket=/a", "chown-socket=www-data:www-data"], {"SOCKET_OWNER": "www-data:www-data"}),
        (["touch-reload=/srv/x", "touch-chain-reload=/srv/y"], {"TOUCH_RELOAD": ["/srv/x", "/srv/y"]}),
        (["module=a.wsgi"], {"APP": "a.wsgi:application"}),
        (["module=a.wsgi", "callable=app"], {"APP": "a.wsgi:app"}),
        (["mount=/=a.wsgi:app"], {"APP": "a.wsgi:app"}),
        (["wsgi-file=a/wsgi.py"], {"APP": "a.wsgi:application"}),
        (["chdir=/srv/x", "wsgi-file=/srv/x/a/wsgi.py"], {"APP": "a.wsgi:application", "CHDIR": "/srv/x"}),
        (["wsgi-file=/srv/x/a/wsgi.py"], {"APP": "a.wsgi:application", "PYTHONPATH": "/srv/x"}),
        (["pp=/a", "pythonpath=/b", "pp=/a"], {"PYTHONPATH": "/a,/b"}),
        (["uid=www-data", "gid=33"], {"USER": "www-data", "GROUP": "33"}),
        (["pidfile=/run/a.pid"], {"PIDFILE": "/run/a.pid"}),
        (["logto=/var/log/a"], {"ERRORLOG": "/var/log/a", "ACCESSLOG": "/var/log/a"}),
        (["logger=file:/e", "req-logger=file:/a"], {"ERRORLOG": "/e", "ACCESSLOG": "/a"}),
        (["logger=rsyslog:10.0.0.1:514,me"], {"SYSLOG": True, "SYSLOG_ADDR": "udp://10.0.0.1:514", "SYSLOG_PREFIX": "me"}),
        (["log-format=%(addr) %(uri) %(status) %(msecs) 5%"], {"ACCESS_LOG_FORMAT": "%(h)s %({raw_uri}e)s %(s)s %(M)s 5%%"}),
        (["log-format=%(addr) %(var.HTTP_X_ID)", "log-x-forwarded-for"], {"ACCESS_LOG_FORMAT": "%({x-forwarded-for}i)s %({x-id}i)s"}),
        (["log-format=[%(ltime)] %(user)"], {"ACCESS_LOG_FORMAT": "%(t)s %(u)s"}),
        (["stats=127.0.0.1:9191"], {"MONITOR_BIND": "127.0.0.1:9191"}),
        (["stats=:9191"], {"MONITOR_BIND": "127.0.0.1:9191"}),
        (["stats=/run/stats.sock"], {"MONITOR_BIND": "unix:/run/stats.sock"}),
        (["stats-push=statsd:1.2.3.4:8125,me"], {"STATSD_HOST": "1.2.3.4:8125", "STATSD_PREFIX": "me"}),
        (["log-slow=1500"], {"SLOW_REQUEST": "1500ms"}),
        (["py-autoreload=1"], {"RELOAD": True}),
        (["procname-prefix=x"], {"PROC_NAME": "x"}),
        (["enable-proxy-protocol"], {"PROXY_PROTOCOL": "v1"}),
    ],
)  # fmt: skip
def test_an_option_becomes_a_setting(lines, settings):
    translation = of(*lines, *([] if lines == ["master"] else ["lazy-apps=true"]))
    assert {key: translation.settings.get(key) for key in settings} == settings
    assert all(
        one.verdict in (Verdict.KEPT, Verdict.BECOMES, Verdict.NOT_NEEDED) for one in translation.report
    )
    assert translation.is_complete


@pytest.mark.parametrize(
    ("lines", "absent"),
    [
        (["lazy-apps=true"], "LOAD"),
        (["lazy=1"], "LOAD"),
        (["disable-logging", "lazy-apps"], "ACCESSLOG"),
        (["disable-logging=true"], "ACCESSLOG"),
        (["module=django.core.handlers.wsgi:WSGIHandler()"], "APP"),
        (["threads=4"], "TIMEOUT"),
        (["harakiri=0"], "REQUEST_TIMEOUT"),
        (["py-autoreload=0"], "RELOAD"),
        (["http=:1", "socket=:2"], "PROTOCOL"),
        (["shared-socket=:80", "http=:1"], "PROTOCOL"),
    ],
)
def test_an_option_leaves_a_setting_out(lines, absent):
    assert absent not in of(*lines).settings


@pytest.mark.parametrize(
    ("lines", "verdict", "words"),
    [
        (["cron=0 3 -1 -5 -1 /bin/x"], Verdict.ELSEWHERE, "0 3 * */5 *"),
        (["spooler=/var/spool"], Verdict.ELSEWHERE, "Celery"),
        (["mules=2"], Verdict.ELSEWHERE, "Celery"),
        (["static-map=/static=/srv"], Verdict.ELSEWHERE, "WhiteNoise"),
        (["fs-reload=/srv/x"], Verdict.ELSEWHERE, "workerguard reload"),
        (["attach-daemon=celery -A x worker"], Verdict.ELSEWHERE, "systemd service"),
        (["hook-pre-app=exec:/bin/x"], Verdict.ELSEWHERE, "ExecStartPre"),
        (["hook-master-start=unix_signal:15 gracefully_kill_them_all"], Verdict.NOT_NEEDED, "gracefully"),
        (["hook-as-root=call:foo"], Verdict.LOST, "'call'"),
        (["emperor=/etc/vassals"], Verdict.ELSEWHERE, "each vassal"),
        (["daemonize=/var/log/x"], Verdict.ELSEWHERE, "systemd"),
        (["cheaper=2"], Verdict.LOST, "scale"),
        (["cheaper=0"], Verdict.NOT_NEEDED, "off"),
        (["idle=60"], Verdict.LOST, "loaded"),
        (["plugins=python3,http"], Verdict.NOT_NEEDED, "built in"),
        (["pythonpath=/srv/*/lib"], Verdict.LOST, "pattern"),
        (["emperor-broodlord=4"], Verdict.LOST, "under load"),
        (["socket=a.sock"], Verdict.BECOMES, "relative"),
        (["plugins=php"], Verdict.LOST, "php"),
        (["php-ini=x"], Verdict.LOST, "Python"),
        (["reload-on-exception-type=ValueError"], Verdict.LOST, "outlier"),
        (["module=a:get()"], Verdict.LOST, "name of an object"),
        (["wsgi-file=/srv/django.wsgi"], Verdict.LOST, "rename"),
        (["mount=/a=x:a", "mount=/b=y:b"], Verdict.LOST, "start another"),
        (["fastcgi-socket=:9000"], Verdict.LOST, "HTTP"),
        (["log-format=%(wid) %(addr)"], Verdict.LOST, "wid"),
        (["processes=auto"], Verdict.UNKNOWN, "whole number"),
        (["processes=0"], Verdict.UNKNOWN, "from 1"),
        (["max-requests=99999999999999999999"], Verdict.UNKNOWN, "whole number"),
        (["http=nonsense:port"], Verdict.UNKNOWN, "address"),
        (["procesess=2"], Verdict.UNKNOWN, "did you mean processes?"),
        (["my-own=2"], Verdict.UNKNOWN, "ignores it"),
        (["chdir=%(base)/x"], Verdict.UNKNOWN, "%(…)"),
        (["chdir=$(HOME)/x"], Verdict.UNKNOWN, "--env"),
        (["thunder-lock=false"], Verdict.NOT_NEEDED, "off"),
        (["master=false"], Verdict.NOT_NEEDED, "off"),
        (["catch-exceptions=false"], Verdict.NOT_NEEDED, "off"),
        (["limit-post=1000"], Verdict.ELSEWHERE, "client_max_body_size 1000"),
    ],
)
def test_an_option_without_a_setting_is_explained(lines, verdict, words):
    translation = of(*lines)
    last = translation.report[-1]
    assert last.verdict is verdict
    assert words in last.explanation
    assert translation.is_complete is (verdict not in (Verdict.LOST, Verdict.UNKNOWN))


def test_an_address_without_tls_beside_one_with_it_is_lost():
    first = line("http=:80", "https=:443,/c,/k", at=0)
    assert first.verdict is Verdict.LOST
    assert of("http=:80", "https=:443,/c,/k").settings["BIND"] == ["0.0.0.0:443"]


def test_an_address_of_the_uwsgi_protocol_beside_http_needs_a_change_in_nginx():
    translation = of("http=:80", "socket=/run/a.sock", "lazy-apps=1")
    assert translation.settings["BIND"] == ["0.0.0.0:80", "unix:/run/a.sock"]
    assert "proxy_pass" in translation.report[1].explanation
    assert any("proxy_pass http://unix:/run/a.sock;" in one.text for one in translation.snippets)


@pytest.mark.parametrize("key", ["attach-daemon", "add-header", "env", "module", "static-map"])
def test_a_value_of_several_lines_gets_into_no_snippet(key):
    translation = of(f"{key}=a: b\nExecStartPre=/bin/evil")
    assert [row.verdict for row in translation.report] == [Verdict.UNKNOWN]
    assert "evil" not in "".join(one.text for one in translation.snippets) + repr(translation.settings)


def test_a_line_that_a_later_one_overrules_says_so():
    first = line("processes=2", "workers=4", at=0)
    assert "a.ini:2 sets WORKERS again" in first.explanation


def test_the_snippets_have_the_site_s_own_values():
    translation = of("uid=app", "chdir=/srv/x", "cron=5 -1 -1 -1 -1 /bin/x", "attach-daemon=memcached -m 64",
                     "static-map=/static=/srv/static", "fs-reload=/srv/x/touch", "max-fd=1000")  # fmt: skip
    text = "\n".join(one.text for one in translation.snippets)
    for expected in ("5 * * * * app /bin/x", "ExecStart=memcached -m 64", "User=app", "WorkingDirectory=/srv/x",
                     "alias /srv/static/;", "PathModified=/srv/x/touch", "LimitNOFILE=1000"):  # fmt: skip
        assert expected in text


def test_the_summary_counts_the_lines():
    assert summary(of("processes=4", "cheaper=2", "x-y=1")) == "3 lines: 1 becomes, 1 lost, 1 unknown."
    assert summary(of()) == "There is nothing to translate."


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(RULES)),
            st.text(max_size=12)
            | st.sampled_from(
                ["1", "/a/b.py", ":80", "a=b", "%(x)", "exec:x", "a:b,c", "-1 -1 -1 -1 -1 x", "=0", "@a"]
            ),
        ),
        max_size=6,
    )
)
def test_no_value_makes_the_translation_fail(pairs):
    directives = [Directive(Place("a", n), key, value, value) for n, (key, value) in enumerate(pairs, 1)]
    translation = translate(directives, TABLE)
    assert len(translation.report) == len(pairs)
    assert all(one.explanation for one in translation.report)
