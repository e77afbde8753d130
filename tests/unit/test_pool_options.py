"""The options of Celery's pool: what they inherit, what they do not, and what is refused."""

from __future__ import annotations

import pytest

from django_workerguard.config.options import OPTIONS
from django_workerguard.config.resolve import POOL_OPTIONS, resolve_pool, split
from django_workerguard.errors import ConfigurationError


def test_what_guards_is_inherited_and_the_pools_own_word_is_stronger():
    setting = {"LOAD_TIMEOUT": 10, "MAX_WORKER_LIFETIME": "1h", "CELERY": {"LOAD_TIMEOUT": 20}}
    options = resolve_pool(setting, {}).options
    assert (options.load_timeout, options.max_worker_lifetime) == (20.0, 3600.0)


def test_what_means_another_thing_for_tasks_is_not_inherited():
    setting = {
        "MIN_LOADED": 6,
        "NAME": "web",
        "WORKER_RELOAD_MERCY": 5,
        "WARMUP": ["urlconf"],
        "MAX_REQUESTS": 9,
    }
    options = resolve_pool(setting, {"WORKERGUARD_MIN_LOADED": "4"}).options
    assert (options.min_loaded, options.name, options.worker_reload_mercy, options.warmup) == (
        1,
        None,
        0.0,
        (),
    )
    assert options.max_requests == 0


def test_it_can_be_named_for_the_pool():
    own = {"MIN_LOADED": 2, "WARMUP": ["templates"], "WORKER_RELOAD_MERCY": "10m", "LOAD_PROBE": "a.b:c"}
    options = resolve_pool({"CELERY": own}, {}).options
    assert (options.min_loaded, options.warmup, options.worker_reload_mercy) == (2, ("templates",), 600.0)
    assert options.load_probe == ("a.b:c",)


def test_the_environment_is_stronger_than_the_settings_and_the_pools_is_the_strongest():
    setting = {"LOAD_RETRIES": 1, "CELERY": {"SURGE": 2}}
    environ = {
        "WORKERGUARD_LOAD_RETRIES": "2",
        "WORKERGUARD_CELERY_SURGE": "3",
        "WORKERGUARD_CELERY_PORT": "tcp://x",
    }
    found = resolve_pool(setting, environ)
    assert (found.options.load_retries, found.options.surge) == (2, 3)
    assert found.sources["surge"] == "WORKERGUARD_CELERY_SURGE in the environment"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"CELERY": {"LOAD_TIMOUT": 1}}, "Did you mean 'LOAD_TIMEOUT'?"),
        ({"CELERY": {"load_timeout": 1}}, "'load_timeout' is not an option of the pool"),
        ({"CELERY": {"MAX_REQUESTS": 1}}, "'MAX_REQUESTS' is not an option of the pool"),
        ({"CELERY": {"SURGE": "lots"}}, 'set in WORKERGUARD["CELERY"]["SURGE"]'),
        ({"CELERY": "prefork"}, 'WORKERGUARD["CELERY"] is not a dictionary'),
        ([], "WORKERGUARD is not a dictionary"),
    ],
)
def test_bad_input_names_the_option_and_where_it_was_set(setting, said):
    with pytest.raises(ConfigurationError) as raised:
        resolve_pool(setting, {})
    assert said in str(raised.value)


def test_the_key_is_none_of_the_servers():
    assert split({"CELERY": {}, "LOAD_RETRIES": 2}, set()) == ({"load_retries": 2}, {})


def test_every_option_of_the_pool_is_an_option():
    assert set(OPTIONS) >= POOL_OPTIONS
