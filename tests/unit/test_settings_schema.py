"""The JSON schema of ``WORKERGUARD`` accepts what the options accept."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from django_workerguard.config.options import OPTIONS
from docs.generate_reference import REFERENCE

SCHEMA = json.loads((REFERENCE / "workerguard.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
SAMPLES = [
    *(True, False, 0, 1, 7, 2.5, -1, "", "0", "7", "10m", "1.5G", "on", "off", "x", "x,y", "/a/", "a:b"),
    *([], ["x"], ["/a/"], [1], {}, None, "lazy", "mold", "report", "json", "server", "urlconf", "env:X"),
]


def accepts(key, value):
    return VALIDATOR.is_valid({key: value})


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_it_accepts_each_value_that_an_option_accepts(option):
    for sample in SAMPLES:
        try:
            option.parse(sample)
        except (ValueError, TypeError):
            continue
        assert accepts(option.key, sample), sample


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_it_accepts_no_value_of_a_wrong_type(option):
    for sample in ({}, None, [[]]):
        assert not accepts(option.key, sample), sample


@pytest.mark.parametrize(
    "setting",
    [
        {"WORKERS": 4, "BIND": ["127.0.0.1:8000"], "LOAD": "auto", "RELOAD_ON_RSS": "1.5G"},
        {"CELERY": {"LOAD_RETRIES": 5}},
    ],
)
def test_it_accepts_a_usual_setting(setting):
    VALIDATOR.validate(setting)


@pytest.mark.parametrize(
    "setting",
    [
        {"LAOD": "auto"},
        {"LOAD": "molds"},
        {"load": "auto"},
        {"LOAD_TIMEOUT": -1},
        {"CELERY": {"HEALTH_PATH": "/health/"}},
        {"PRELOAD_APP": True},
    ],
)
def test_it_refuses_what_the_server_refuses(setting):
    assert not VALIDATOR.is_valid(setting)


def test_it_accepts_no_configuration_file():
    assert not accepts("CONFIG", "gunicorn.conf.py")
