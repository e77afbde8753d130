"""Each form of a translation is valid, and all of them configure the same server."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import getpass
import grp
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from django_workerguard.__main__ import _parser
from django_workerguard.config.arguments import collect, split_at_dashes
from django_workerguard.config.handover import Handover
from django_workerguard.from_uwsgi.formats import FORMATS
from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.from_uwsgi.read.reader import read
from django_workerguard.from_uwsgi.report import report
from django_workerguard.from_uwsgi.table import load_table
from django_workerguard.from_uwsgi.translate.translation import Translation, translate
from django_workerguard.server.configuration import guarded_application
from django_workerguard.server.configuration.guarded_application import GuardedApplication

TABLE = load_table()
FILES = sorted((Path(__file__).parent / "uwsgi_files").iterdir())
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
GROUP = grp.getgrgid(os.getgid()).gr_name


def translated(path: Path, tmp_path: Path) -> Translation:
    """Return the translation of a file, with the users and directories of this machine."""
    machine = Machine(environ={"PORT": "8000", "UWSGI_WORKERS": "4"}, directory=str(path.parent))
    translation = translate(read([str(path)], [], machine=machine, table=TABLE), TABLE)
    here = {"USER": getpass.getuser(), "GROUP": GROUP, "CHDIR": str(tmp_path)}
    if translation.settings.get("WORKER_CLASS") == "gevent":
        here["WORKER_CLASS"] = "gthread"  # gevent is not to be imported into the process of other tests
    settings = {key: here.get(key, value) for key, value in translation.settings.items()}
    directory = str(tmp_path) if translation.directory else ""
    return dataclasses.replace(translation, settings=settings, directory=directory)


def settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str] | None = None, **handover: Any
) -> dict[str, Any]:
    """Return all values that the server itself reads. It raises for an unknown option and for a wrong value."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # with load=auto; pytest would never reap the orphans of other tests
    monkeypatch.setattr(guarded_application, "become_subreaper", lambda: None)
    given = Handover(project=str(tmp_path), directory=str(tmp_path), **handover)
    application = GuardedApplication(given, environ=environ or {})
    application.settle(given)
    names = (
        "workers",
        "bind",
        "worker_class_str",
        "threads",
        "timeout",
        "backlog",
        "umask",
        "accesslog",
        "access_log_format",
    )
    names += (
        "pidfile",
        "protocol",
        "limit_request_line",
        "limit_request_field_size",
        "pythonpath",
        "chdir",
        "errorlog",
    )
    names += (
        "keepalive",
        "proc_name",
        "statsd_host",
        "syslog",
        "syslog_addr",
        "certfile",
        "reload",
        "user",
        "group",
    )
    server = {name: getattr(application.cfg, name) for name in names}
    return server | dataclasses.asdict(application.guard.options)


def settings_of(translation: Translation) -> dict[str, Any]:
    tree = ast.parse(FORMATS["settings"](translation))
    (assignment,) = tree.body
    assert isinstance(assignment, ast.Assign)
    setting: dict[str, Any] = ast.literal_eval(assignment.value)
    return setting


def of_command(text: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the environment and the handover of a command."""
    words = shlex.split(text.replace("\\\n", " "))
    at = next(number for number, word in enumerate(words) if word == "-m")
    assert words[at : at + 3] == ["-m", "django_workerguard", "serve"]
    own, passed_on = split_at_dashes(words[at + 2 :])
    _, guard, server = collect(vars(_parser().parse_args(own)))
    environ = dict(word.split("=", 1) for word in words[: at - 1])
    return environ, {"guard": guard, "server": server, "passed_on": passed_on}


@each
def test_every_form_configures_the_same_server(path, tmp_path, monkeypatch):
    translation = translated(path, tmp_path)
    environ, handover = of_command(FORMATS["command"](translation))
    expected = settled(tmp_path, monkeypatch, environ, **handover)
    assert expected["workers"] == translation.settings.get("WORKERS", 1)
    early = {
        key.lower(): value for key, value in translation.settings.items() if key in ("CHDIR", "PYTHONPATH")
    }
    assert settled(tmp_path, monkeypatch, setting=settings_of(translation), server=early) == expected
    (tmp_path / "conf.py").write_text(FORMATS["gunicorn-conf"](translation))
    assert settled(tmp_path, monkeypatch, server={"config": str(tmp_path / "conf.py")}) == expected
    lines = shlex.split(FORMATS["env"](translation), comments=True)
    variables = dict(line.split("=", 1) for line in lines)
    assert settled(tmp_path, monkeypatch, variables) == expected
    assert {
        name: value for name, value in variables.items() if not name.startswith("WORKERGUARD_")
    } == translation.environ


@each
def test_the_manifests_are_valid(path, tmp_path):
    translation = translated(path, tmp_path)
    manifest = yaml.safe_load(FORMATS["k8s"](translation))
    kubernetes_validate.validate(manifest, "1.34", strict=True)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    variables = {one["name"]: one["value"] for one in container["env"]}
    service = yaml.safe_load(FORMATS["compose"](translation))["services"]["web"]
    assert service["environment"] == variables
    assert all(isinstance(value, str) for value in variables.values())
    assert container["command"] == service["command"] == ["python", "-m", "django_workerguard", "serve"]


def test_a_container_listens_where_its_published_port_leads(tmp_path):
    (tmp_path / "a.ini").write_text(
        "[uwsgi]\nhttp-socket = 127.0.0.1:8001\nhttp-socket = :8002\nhttp-socket = /run/a\n"
    )
    translation = translate(
        read([str(tmp_path / "a.ini")], [], machine=Machine(directory=str(tmp_path)), table=TABLE), TABLE
    )
    service = yaml.safe_load(FORMATS["compose"](translation))["services"]["web"]
    assert service["environment"]["WORKERGUARD_BIND"] == "0.0.0.0:8001,0.0.0.0:8002,unix:/run/a"
    assert service["ports"] == ["127.0.0.1:8001:8001", "8002:8002"]


def test_a_user_with_a_digit_that_is_no_number_stays_that_of_the_image(tmp_path):
    (tmp_path / "a.ini").write_text("[uwsgi]\nuid = ²\ngid = 33\n")
    translation = translate(
        read([str(tmp_path / "a.ini")], [], machine=Machine(directory=str(tmp_path)), table=TABLE), TABLE
    )
    manifest = FORMATS["k8s"](translation)
    assert "runAsGroup: 33" in manifest
    assert "runAsUser" not in manifest


@each
def test_the_unit_is_valid(path, tmp_path):
    translation = translated(path, tmp_path)
    text = FORMATS["systemd"](translation)
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(text)
    assert {"Unit", "Service", "Install"} == set(parser.sections())
    words = shlex.split(parser["Service"]["ExecStart"].replace("%%", "%").replace("$$", "$"))
    expected = of_command(FORMATS["command"](translation))[1]
    own, passed_on = split_at_dashes(words[words.index("django_workerguard") + 1 :])
    _, guard, server = collect(vars(_parser().parse_args(own)))
    assert (guard, server) == (expected["guard"], expected["server"])
    assert set(passed_on) <= set(expected["passed_on"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_has_nothing_against_the_units(tmp_path):
    units = []
    for number, path in enumerate(FILES):
        translation = dataclasses.replace(
            translated(path, tmp_path), python=sys.executable, user="root", group="root"
        )
        unit = tmp_path / f"site{number}.service"
        kept = [
            line
            for line in FORMATS["systemd"](translation).splitlines()
            if not line.startswith(("RootDirectory=", "SupplementaryGroups=", "Type="))  # of another host
        ]
        unit.write_text("\n".join([*kept, ""]))
        units.append(str(unit))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units]
    output = subprocess.run(command, capture_output=True, text=True).stderr
    assert not [line for line in output.splitlines() if "site" in line], output


def test_the_example_of_the_page_is_what_the_command_prints(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "from-uwsgi.md").read_text()
    blocks = {
        language: re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
        for language in ("ini", "python", "text")
    }
    (tmp_path / "uwsgi.ini").write_text(blocks["ini"])
    directives = read(["uwsgi.ini"], [], machine=Machine(directory=str(tmp_path)), table=TABLE)
    translation = translate(directives, TABLE)
    assert FORMATS["settings"](translation) == blocks["python"]
    assert report(translation).startswith(blocks["text"])
