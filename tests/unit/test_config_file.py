"""Which gunicorn.conf.py is read: each place that can name one is honoured, or refused with what to do instead."""

from __future__ import annotations

import sys

import pytest

from django_workerguard.checks import check_setting
from django_workerguard.config.handover import Handover
from django_workerguard.errors import ConfigurationError
from django_workerguard.server.configuration import guarded_application
from django_workerguard.server.configuration.guarded_application import GuardedApplication


@pytest.fixture
def settled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))  # settle() takes over that of the handover
    monkeypatch.setattr(guarded_application, "become_subreaper", lambda: None)
    for number, name in enumerate(("gunicorn.conf.py", "args.py", "env.py", "after.py", "line.py")):
        (tmp_path / name).write_text(f"backlog = {number}\n")

    def settled(environ=None, **handover) -> GuardedApplication:
        place = {"project": str(tmp_path), "directory": str(tmp_path), "sys_path": list(sys.path)}
        given = Handover(**place, **handover)
        application = GuardedApplication(given, environ=environ or {})
        application.settle(given)
        return application

    return settled


def test_the_strongest_place_names_the_file(settled):
    assert settled().cfg.backlog == 0
    environ = {"GUNICORN_CMD_ARGS": "--config args.py"}
    assert settled(environ).cfg.backlog == 1
    environ["WORKERGUARD_CONFIG"] = "env.py"
    application = settled(environ)
    assert application.cfg.backlog == 2
    assert str(application.read.file) == "env.py (WORKERGUARD_CONFIG in the environment)"
    assert settled(environ, passed_on=["--config", "after.py"]).cfg.backlog == 3
    assert settled(environ, server={"config": "line.py"}).cfg.backlog == 4


def test_a_file_that_the_environment_names_and_that_cannot_be_read_is_an_error(settled):
    with pytest.raises(ConfigurationError) as caught:
        settled({"WORKERGUARD_CONFIG": "nothere.py"})
    assert "'nothere.py' cannot be read" in str(caught.value)
    assert "(set in WORKERGUARD_CONFIG in the environment)" in str(caught.value)


def test_the_setting_that_is_read_after_the_file_cannot_name_it(settled, settings):
    with pytest.raises(ConfigurationError) as caught:
        settled(setting={"CONFIG": "line.py"})
    assert str(caught.value).startswith("config: it is read before this place")
    assert 'WORKERGUARD["CONFIG"]' in str(caught.value)
    assert "WORKERGUARD_CONFIG in the environment" in str(caught.value)
    settings.WORKERGUARD = {"CONFIG": "line.py"}
    (error,) = check_setting(None)
    assert error.id == "workerguard.E005"
    assert "CONFIG" in error.msg


def test_a_file_cannot_name_another(settled, tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("WORKERGUARD = {'CONFIG': 'line.py'}\n")
    with pytest.raises(ConfigurationError) as caught:
        settled()
    assert f'WORKERGUARD["CONFIG"] in {tmp_path}/gunicorn.conf.py' in str(caught.value)
