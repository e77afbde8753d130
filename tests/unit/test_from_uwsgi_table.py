"""The table of uWSGI's options is complete, and what it says an option becomes exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from gunicorn.config import KNOWN_SETTINGS

from django_workerguard.cli.commands import TRANSLATIONS
from django_workerguard.config.options import OPTIONS
from django_workerguard.from_uwsgi.formats import FORMATS
from django_workerguard.from_uwsgi.formats.arguments import FLAGS, SWITCHES
from django_workerguard.from_uwsgi.read.logic import CONDITIONS, ENDS, LOOPS, SYNONYMS
from django_workerguard.from_uwsgi.read.reader import IMMEDIATE
from django_workerguard.from_uwsgi.table import Argument, Verdict, load_table, parse
from django_workerguard.from_uwsgi.translate.translation import RULES
from tests.components import COMPONENTS

TABLE = load_table()
NAMES = (Path(__file__).parent / "uwsgi_names.txt").read_text().split()
SETTINGS = {setting.name: setting for setting in KNOWN_SETTINGS}


def test_every_option_of_the_binary_is_in_the_table():
    assert len(NAMES) > 900
    assert set(NAMES) <= set(TABLE.rows)


@pytest.mark.needs("uwsgi")
def test_the_list_of_names_is_that_of_the_binary():
    program = COMPONENTS["uwsgi"].path()
    assert program
    output = subprocess.run([program, "--dump-options"], capture_output=True, text=True).stdout
    names = {line for line in output.splitlines() if re.fullmatch(r"[a-z][\w-]*", line)}
    # a build with PCRE has further ones, which are in the table too
    assert set(NAMES) <= names <= set(TABLE.rows)


@pytest.mark.needs("uwsgi")
def test_which_options_take_a_value_is_as_in_the_binary():
    """getopt says so for the flags: with a value they are refused."""
    for name in ("master", "vacuum", "die-on-term", "lazy-apps", "thunder-lock"):
        assert TABLE.argument(name) is Argument.NONE
    for name in ("need-app", "chmod-socket", "mule", "log-syslog", "pyshell"):
        assert TABLE.argument(name) is Argument.POSSIBLE
    program = COMPONENTS["uwsgi"].path()
    assert program
    with_value = subprocess.run([program, "--master=1", "--version"], capture_output=True, text=True)
    assert "getopt_long" in with_value.stderr


def test_the_plugins_of_the_sources_are_in_the_table():
    plugins = {row.plugin for row in TABLE.rows.values()}
    assert {"core", "python", "http", "gevent", "php", "rack", "psgi", "lua", "v8", "cgi", "mono"} <= plugins
    assert len(TABLE.rows) > 1200


def test_every_row_has_a_reason_or_a_rule():
    for row in TABLE.rows.values():
        assert row.verdict is not Verdict.UNKNOWN
        assert row.reason or row.becomes or row.name in RULES, row.name
        assert row.becomes if row.verdict is Verdict.BECOMES else not row.becomes, row.name


def test_what_an_option_becomes_exists():
    known = {*(option.key for option in OPTIONS.values()), *(name.upper() for name in SETTINGS)}
    for row in TABLE.rows.values():
        named = set(re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)*\b", row.becomes))
        assert named <= known, row.name
        if row.verdict is Verdict.KEPT:
            assert row.name in {option.name for option in OPTIONS.values()}, row.name


def test_an_option_that_mirrors_uwsgis_is_in_the_table():
    for option in OPTIONS.values():
        if option.uwsgi:
            assert TABLE.rows[option.uwsgi].verdict in (Verdict.KEPT, Verdict.BECOMES)


def test_rules_are_for_options_of_the_table():
    assert set(RULES) <= set(TABLE.rows)
    assert set(TABLE.short.values()) <= set(TABLE.rows)
    assert (TABLE.flags | TABLE.optional) <= set(TABLE.rows)


def test_the_language_of_the_configuration_is_in_the_table():
    conditions = {f"if-{word}{name}" for name in CONDITIONS for word in ("", "not-")}
    assert (conditions | LOOPS | set(SYNONYMS) | IMMEDIATE | (ENDS - {"end"})) <= set(TABLE.rows)


def test_the_command_offers_the_formats():
    assert tuple(FORMATS) == TRANSLATIONS


def test_the_flags_are_gunicorns():
    for name, flag in FLAGS.items():
        assert flag in (SETTINGS[name].cli or ()), name
    assert all(SETTINGS[name].action == "store_true" for name in SWITCHES)


def test_a_row_without_a_verdict_is_an_error():
    text = '[reasons]\n[arguments]\nnone=[]\noptional=[]\nshort={}\n[options.core]\nx = "kep | | "'
    with pytest.raises(ValueError, match="kep"):
        parse(text)
