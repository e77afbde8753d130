"""One value per option, out of all the places where it can be set."""

from __future__ import annotations

import pytest

from django_workerguard.config import units
from django_workerguard.config.arguments import parse_addrport, split_at_dashes
from django_workerguard.config.options import OPTIONS
from django_workerguard.config.resolve import (
    COMMAND_LINE,
    ENVIRONMENT,
    SETTING,
    Layer,
    from_environ,
    resolve,
    split,
)
from django_workerguard.config.text import MEGABYTE
from django_workerguard.errors import DEFAULT, ConfigurationError

SERVER = {"workers", "bind", "timeout"}


def test_the_command_line_wins_over_the_environment_over_the_settings():
    layers = [
        Layer(SETTING, {"load_retries": 1, "surge": 1, "min_loaded": 2}),
        Layer(ENVIRONMENT, {"load_retries": "2", "surge": "2"}),
        Layer(COMMAND_LINE, {"load_retries": "5"}),
    ]
    resolved = resolve(layers)
    assert (resolved.options.load_retries, resolved.options.surge, resolved.options.min_loaded) == (5, 2, 2)
    assert resolved.sources["load_retries"] == "--load-retries on the command line"
    assert resolved.sources["surge"] == "WORKERGUARD_SURGE in the environment"
    assert resolved.sources["min_loaded"] == 'WORKERGUARD["MIN_LOADED"]'
    assert not resolved.is_set("need_app")


def test_an_error_says_that_the_value_was_not_set():
    assert (
        str(ConfigurationError("too large", option="surge", where=DEFAULT))
        == "surge: too large (the default)."
    )


def test_an_error_names_option_place_and_remedy():
    with pytest.raises(ConfigurationError) as caught:
        resolve([Layer(ENVIRONMENT, {"need_app": "perhaps"})])
    line = str(caught.value)
    assert "need-app" in line
    assert "WORKERGUARD_NEED_APP in the environment" in line
    assert "worker, server, off" in line


def test_a_secret_does_not_appear_in_an_error():
    with pytest.raises(ConfigurationError) as caught:
        resolve([Layer(SETTING, {"health_token": 987654})])
    assert "987654" not in str(caught.value)


def test_a_setting_is_split_into_guard_and_server():
    assert split({"NEED_APP": "off", "WORKERS": 4}, SERVER) == ({"need_app": "off"}, {"workers": 4})


@pytest.mark.parametrize(
    ("key", "hint"), [("NEED_AP", "NEED_APP"), ("workers", "WORKERS"), ("LOAD-RETRIES", "LOAD_RETRIES")]
)
def test_an_unknown_key_names_the_nearest(key, hint):
    with pytest.raises(ConfigurationError, match=hint):
        split({key: 1}, SERVER)


def test_unknown_names_in_the_environment_only_warn():
    environ = {
        "WORKERGUARD_SURGE": "2",
        "WORKERGUARD_WORKERS": "3",
        "WORKERGUARD_SERVICE_HOST": "10.0.0.1",
        "PATH": "/bin",
    }
    assert from_environ(environ, SERVER) == ({"surge": "2"}, {"workers": "3"}, ["WORKERGUARD_SERVICE_HOST"])


def test_every_default_is_what_its_own_parser_accepts():
    for option in OPTIONS.values():
        if option.default is not None and option.default != "":
            megabytes = option.parse is units.megabytes
            raw = option.default // MEGABYTE if megabytes else option.default
            assert option.parse(raw) == option.default, option.name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8000", "127.0.0.1:8000"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::1]:8000", "[::1]:8000"),
        ("localhost:1", "localhost:1"),
    ],
)
def test_addrport_as_runserver_has_it(text, address):
    assert parse_addrport(text) == address


@pytest.mark.parametrize("text", ["eight", "99999", "host:", ":8000", "a:b:1"])
def test_what_is_no_addrport(text):
    with pytest.raises(ConfigurationError, match="addrport"):
        parse_addrport(text)


def test_argv_is_split_before_it_is_parsed():
    assert split_at_dashes(["-w", "2", "--", "--keep-alive", "5", "--", "x"]) == (
        ["-w", "2"],
        ["--keep-alive", "5", "--", "x"],
    )
    assert split_at_dashes(["-w", "2"]) == (["-w", "2"], [])
