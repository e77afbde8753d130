"""Resolution of the options: one value from all the places where an option can be set. Pure.

Weakest first: default, ``WORKERGUARD`` in the settings, ``WORKERGUARD`` in gunicorn.conf.py,
``WORKERGUARD_*`` in the environment, the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from django_workerguard.config.options import OPTIONS, GuardOptions, Option
from django_workerguard.errors import DEFAULT, ConfigurationError
from django_workerguard.values import value_class

SETTING = 'WORKERGUARD["{key}"]'
CONFIG_FILE = 'WORKERGUARD["{key}"] in {file}'
ENVIRONMENT = "{env} in the environment"
COMMAND_LINE = "{flag} on the command line"
POOL = "CELERY"  # the key of WORKERGUARD that has the options of Celery's pool
POOL_SETTING = 'WORKERGUARD["CELERY"]["{key}"]'
POOL_ENVIRONMENT = "WORKERGUARD_CELERY_{key} in the environment"
# options with the same meaning for a pool of tasks; a value for the web workers is used for the pool, too
INHERITED = (
    "need_app",
    "load_retries",
    "load_retry_delay",
    "load_retry_max_delay",
    "load_timeout",
    "load_concurrency",
    "load_probe",
    "urlconf",
    "accept_left_behind",
    "give_up_after",
    "release",
    "max_worker_lifetime",
    "max_worker_lifetime_delta",
    "min_worker_lifetime",
    "reload_on_rss",
    "surge",
    "run_dir",
)
# options with another default for a pool, because a task is not a request and needs no views
POOL_DEFAULTS: Mapping[str, Any] = {
    "warmup": (),
    "min_loaded": 1,
    "worker_reload_mercy": 0.0,  # a task may take hours; Celery's own time limits end it
    "name": None,
}
POOL_OPTIONS = frozenset((*INHERITED, *POOL_DEFAULTS))


@value_class
class Layer:
    """Raw values by field name from one place, and the spelling of options there, for messages."""

    spelling: str
    values: Mapping[str, Any]
    file: str = ""

    def where(self, field: str, *, flag: str | None = None) -> str:
        """Return the place where an option was set, for messages. ``flag`` is its flag if that differs from its name."""
        key = field.upper()
        flag = flag or "--" + field.replace("_", "-")
        return self.spelling.format(key=key, env=f"WORKERGUARD_{key}", flag=flag, file=self.file)


@value_class
class Resolved:
    """The options, and the place where each was set."""

    options: GuardOptions
    sources: Mapping[str, str]

    def is_set(self, field: str) -> bool:
        return self.sources[field] != DEFAULT


def resolve(layers: Sequence[Layer]) -> Resolved:
    """Parse and merge layers of the guard's own options, weakest first.

    Raises ConfigurationError with the option and the place where it was set.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(OPTIONS, DEFAULT)
    for layer in layers:
        for field, raw in layer.values.items():
            if field in OPTIONS:
                values[field] = parse(OPTIONS[field], raw, layer.where(field))
                sources[field] = layer.where(field)
    return Resolved(GuardOptions(**values), sources)


def parse(option: Option, raw: Any, where: str) -> Any:
    """Parse one raw value; None means the default. Raises ConfigurationError."""
    if raw is None:
        return option.default
    try:
        return option.parse(raw)
    except ValueError as error:
        problem = "the value is not understood" if option.secret else str(error)
        raise ConfigurationError(problem, option=option.name, where=where) from None


def split(
    setting: Any, server_options: Collection[str], *, where: str = "WORKERGUARD"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a WORKERGUARD dictionary into the guard's values and gunicorn's, by field name.

    Raises ConfigurationError if it is not a dictionary, or for an unknown key, with the nearest option.
    """
    if not isinstance(setting, Mapping):
        raise ConfigurationError(
            f"{where} is not a dictionary", hint='Write WORKERGUARD = {"NEED_APP": "worker"}.'
        )
    guard: dict[str, Any] = {}
    server: dict[str, Any] = {}
    for key, value in setting.items():
        if key == POOL:
            continue
        field = str(key).lower()
        if key != str(key).upper() or (field not in OPTIONS and field not in server_options):
            raise ConfigurationError(
                f"{key!r} is not an option", where=where, hint=nearest(str(key), server_options)
            )
        (guard if field in OPTIONS else server)[field] = value
    return guard, server


def from_environ(
    environ: Mapping[str, str], server_options: Collection[str]
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the guard's values, gunicorn's values, and the names of unknown options.

    Unknown names are no error, because Kubernetes injects such names for a service called workerguard.
    """
    guard: dict[str, str] = {}
    server: dict[str, str] = {}
    unknown = []
    for name, value in environ.items():
        field = name.removeprefix("WORKERGUARD_").lower()
        if not name.startswith("WORKERGUARD_") or name.startswith(f"WORKERGUARD_{POOL}_"):
            continue
        if field in OPTIONS:
            guard[field] = value
        elif field in server_options:
            server[field] = value
        else:
            unknown.append(name)
    return guard, server, unknown


def resolve_pool(setting: Any, environ: Mapping[str, str]) -> Resolved:
    """Resolve the options of Celery's pool from the unparsed WORKERGUARD and the environment.

    Weakest first: default, ``WORKERGUARD``, ``WORKERGUARD_*``, ``WORKERGUARD["CELERY"]``,
    ``WORKERGUARD_CELERY_*``. Raises ConfigurationError for an unknown option, or one that a pool does not have.
    """
    own = pool_setting(setting)
    for key in own:
        if str(key).lower() not in POOL_OPTIONS or key != str(key).upper():
            raise ConfigurationError(
                f"{key!r} is not an option of the pool",
                where=f'WORKERGUARD["{POOL}"]',
                hint=nearest_of_pool(str(key)),
            )
    prefix = f"WORKERGUARD_{POOL}_"
    everywhere, _, _ = from_environ(environ, ())
    layers = [
        Layer(SETTING, {field: setting[field.upper()] for field in INHERITED if field.upper() in setting}),
        Layer(ENVIRONMENT, {field: value for field, value in everywhere.items() if field in INHERITED}),
        Layer(POOL_SETTING, {str(key).lower(): value for key, value in own.items()}),
        Layer(
            POOL_ENVIRONMENT,
            {
                name.removeprefix(prefix).lower(): value
                for name, value in environ.items()
                if name.startswith(prefix) and name.removeprefix(prefix).lower() in POOL_OPTIONS
            },
        ),
    ]
    resolved = resolve(layers)
    unset = {field: value for field, value in POOL_DEFAULTS.items() if not resolved.is_set(field)}
    return Resolved(dataclasses.replace(resolved.options, **unset), resolved.sources)


def pool_setting(setting: Any) -> Mapping[str, Any]:
    """Return ``WORKERGUARD["CELERY"]``, or {}. Raises ConfigurationError if it is not a dictionary."""
    if not isinstance(setting, Mapping):
        raise ConfigurationError(
            "WORKERGUARD is not a dictionary", hint='Write WORKERGUARD = {"NEED_APP": "worker"}.'
        )
    own = setting.get(POOL) or {}
    if not isinstance(own, Mapping):
        raise ConfigurationError(
            f'WORKERGUARD["{POOL}"] is not a dictionary',
            hint=f'Write WORKERGUARD = {{"{POOL}": {{"LOAD_TIMEOUT": 120}}}}.',
        )
    return own


def nearest_of_pool(key: str) -> str:
    """Return a hint that names the pool's option nearest to a misspelt one."""
    return _nearest(key, POOL_OPTIONS)


def nearest(key: str, server_options: Collection[str]) -> str:
    """Return a hint that names the option nearest to a misspelt one."""
    return _nearest(key, (*OPTIONS, *server_options, POOL))


def _nearest(key: str, fields: Collection[str]) -> str:
    known = [name.upper() for name in fields]
    import difflib  # here, because only a wrong key needs it, and the arbiter is to stay light

    match = difflib.get_close_matches(key.upper().replace("-", "_"), known, n=1, cutoff=0.6)
    return f"Did you mean {match[0]!r}?" if match else "The options reference lists all options."
