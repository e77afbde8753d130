"""System checks of the settings, each with a hint. Runs in manage.py and the sentinel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.urls import converters, get_resolver
from django.utils.module_loading import import_string

from django_workerguard.conf import settings_layer
from django_workerguard.config.django_settings import settings_module
from django_workerguard.config.gunicorn_settings import setting_names
from django_workerguard.config.options import OPTIONS
from django_workerguard.config.redact import describe_briefly, message_of
from django_workerguard.config.resolve import POOL, SETTING, Layer, nearest, resolve_pool
from django_workerguard.config.resolve import parse as parse_option
from django_workerguard.config.text import plain
from django_workerguard.errors import ConfigurationError

MIDDLEWARE = "django_workerguard.middleware.GuardMiddleware"
REFUSED = {
    "PRELOAD_APP": 'Remove it, and set "LOAD": "auto": one process loads the application, and the workers are forked from it.',
    "REUSE_PORT": "Remove it. The options reference gives the reason.",
    "DAEMON": "Remove it, and use systemd, a container or nohup.",
    "CONFIG": "Name the file with --config on the command line or with WORKERGUARD_CONFIG in the environment: it is read "
    "before the settings.",
}


@register("workerguard")
def check_setting(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check WORKERGUARD: its type, its keys, its values, and contradictions between them."""
    setting: object = settings_layer()
    if not isinstance(setting, Mapping):
        return [
            Error(
                "WORKERGUARD is not a dictionary.",
                hint='Write WORKERGUARD = {"NEED_APP": "worker"}.',
                id="workerguard.E001",
            )
        ]
    values: dict[str, Any] = {}
    errors = [*_keys(setting), *_values(setting, values), *_pool(setting)]
    return errors or list(_contradictions(setting, values))


def _keys(setting: Mapping[str, Any]) -> Iterator[CheckMessage]:
    names = setting_names()
    for key in setting:
        if key == POOL:
            continue
        field = str(key).lower()
        if key != str(key).upper() or (field not in OPTIONS and field not in names):
            yield Error(
                f"WORKERGUARD has no option {key!r}.", hint=nearest(str(key), names), id="workerguard.E002"
            )


def _values(setting: Mapping[str, Any], values: dict[str, Any]) -> Iterator[CheckMessage]:
    layer = Layer(SETTING, {})
    for field, option in OPTIONS.items():
        if option.key not in setting:
            values[field] = option.default
            continue
        try:
            values[field] = parse_option(option, setting[option.key], layer.where(field))
        except ConfigurationError as error:
            yield Error(str(error), hint=option.help, id="workerguard.E003")
        except Exception as error:  # a lazy object of the site: a check must not end the command
            yield Error(
                f"{option.key} cannot be read: {plain(': '.join(describe_briefly(error)))}",
                hint=option.help,
                id="workerguard.E003",
            )


def _pool(setting: Mapping[str, Any]) -> Iterator[CheckMessage]:
    try:
        resolve_pool(setting, {})
    except ConfigurationError as error:
        if POOL in (error.where or error.problem):  # an error in an inherited option is reported as E003
            yield Error(str(error), hint=error.hint, id="workerguard.E007")


def _contradictions(setting: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[CheckMessage]:
    workers = setting.get("WORKERS")
    if isinstance(workers, int) and values["min_loaded"] > workers:
        yield Error(
            f"MIN_LOADED is {values['min_loaded']}, but there are only {workers} WORKERS: the server would never be ready.",
            hint="Lower MIN_LOADED, or raise WORKERS.",
            id="workerguard.E004",
        )
    for key, hint in REFUSED.items():
        if setting.get(key):
            yield Error(
                f"{key} cannot be set in WORKERGUARD.",
                hint=hint,
                id="workerguard.E005",
            )
    if values["load_retry_delay"] > values["load_retry_max_delay"]:
        yield Error(
            "LOAD_RETRY_DELAY is longer than LOAD_RETRY_MAX_DELAY.",
            hint="The first back-off cannot be longer than the longest back-off.",
            id="workerguard.E006",
        )
    yield from _recycling(values)
    yield from _callables(values)
    after, give_up = values["stand_in_after"], values["give_up_after"]
    if values["stand_in"] and give_up and give_up <= after:
        yield Warning(
            f"GIVE_UP_AFTER ({give_up:g} s) is not longer than STAND_IN_AFTER ({after:g} s): the server gives up before the stand-in answers.",
            hint="Raise GIVE_UP_AFTER, or set STAND_IN to False.",
            id="workerguard.W003",
        )


def _callables(values: Mapping[str, Any]) -> Iterator[CheckMessage]:
    for name in ("dashboard_access", "dashboard_actions"):
        if not values[name]:
            continue
        try:
            import_string(values[name].replace(":", "."))
        except Exception as error:  # any exception of the project's module: a check must not end the command
            yield Warning(
                f"{name.upper()} cannot be imported: {plain(message_of(error))}",
                hint="Every page of the dashboard will fail. Set it to a callable, as module:callable.",
                id="workerguard.W009",
            )


def _recycling(values: Mapping[str, Any]) -> Iterator[CheckMessage]:
    planned, evil = values["reload_on_rss"], values["evil_reload_on_rss"]
    if planned and evil and evil <= planned:
        yield Warning(
            "EVIL_RELOAD_ON_RSS is not above RELOAD_ON_RSS: workers are killed before they can be replaced.",
            hint="Set EVIL_RELOAD_ON_RSS well above RELOAD_ON_RSS, or remove it.",
            id="workerguard.W006",
        )
    lifetime, least = values["max_worker_lifetime"], values["min_worker_lifetime"]
    if lifetime and lifetime < least:
        yield Warning(
            f"MAX_WORKER_LIFETIME ({lifetime:g} s) is shorter than MIN_WORKER_LIFETIME ({least:g} s), which takes precedence.",
            hint="Raise MAX_WORKER_LIFETIME, or lower MIN_WORKER_LIFETIME.",
            id="workerguard.W007",
        )
    for name in ("max_requests", "max_worker_lifetime"):
        if values[f"{name}_delta"] and not values[name]:
            key = name.upper()
            yield Warning(
                f"{key}_DELTA has no effect, because {key} is not set.",
                hint=f"Set {key}, or remove {key}_DELTA.",
                id="workerguard.W008",
            )


@register("workerguard")
def check_middleware(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warn if GuardMiddleware is missing or is not first."""
    middleware = list(getattr(settings, "MIDDLEWARE", None) or [])
    if MIDDLEWARE not in middleware:
        return [
            Warning(
                "GuardMiddleware is not in MIDDLEWARE.",
                hint=f"Put {MIDDLEWARE!r} first. Under any other server than serve_guarded, it prevents an unloaded "
                "worker from answering.",
                id="workerguard.W001",
            )
        ]
    if middleware[0] != MIDDLEWARE:
        return [
            Warning(
                "GuardMiddleware is not the first in MIDDLEWARE.",
                hint="Put it first. A middleware before it sees requests, and may redirect probes, before the worker is "
                "known to be loaded.",
                id="workerguard.W002",
            )
        ]
    return []


@register("workerguard", deploy=True)
def check_debug(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warn of DEBUG = True: serve_guarded uses the settings that manage.py names."""
    if not settings.DEBUG:
        return []
    return [
        Warning(
            f"serve_guarded would serve {settings_module(settings) or 'settings'} with DEBUG = True.",
            hint="Every visitor can see error pages with code and values. Set the production settings with --settings or "
            "DJANGO_SETTINGS_MODULE.",
            id="workerguard.W010",
        )
    ]


@register("workerguard", "urls")
def check_health_path(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warn if the health path is missing in the URLconf, or leads to another view."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    setting: object = settings_layer()
    option = OPTIONS["health_path"]
    try:
        path = (
            parse_option(option, setting.get(option.key), option.key) if isinstance(setting, Mapping) else ""
        )
    except Exception:
        return []  # E003 reports it
    hint = (
        f'Add path("{path.lstrip("/")}", include("django_workerguard.urls")) to the URLconf, '
        "or set HEALTH_PATH to the path at which it is included."
    )
    try:
        leads_to = _place_of(path, [get_resolver()])
    except Exception:  # Django's own check reports a broken URLconf
        return []
    if leads_to is None:
        text = f"HEALTH_PATH {path!r} is not in the URLconf: the probes answer at this path, but the list of checks does not."
        return [Warning(text, hint=hint, id="workerguard.W004")]
    apps, view = leads_to
    if "workerguard" not in apps:
        text = f"HEALTH_PATH {path!r} leads to {view}, which is not the guard's view."
        return [Warning(text, hint=hint, id="workerguard.W005")]
    return []


def _place_of(path: str, entries: Iterable[Any]) -> tuple[list[str], str] | None:
    """Return the app names of the first entry that matches a path, and the view's name; None if there is none.

    A pattern with a converter of the site's is passed over: the converter may ask a database.
    """
    for entry in entries:
        pattern = entry.pattern
        if any(type(one).__module__ != converters.__name__ for one in pattern.converters.values()):
            continue
        match = pattern.match(path)
        if match is None:
            continue
        if not hasattr(entry, "url_patterns"):
            return [], entry.name or entry.lookup_str
        if inner := _place_of(match[0], entry.url_patterns):
            apps, view = inner
            name = f"{entry.namespace}:{view}" if entry.namespace else view
            return [entry.app_name or "", *apps], name
    return None
