"""Import what Django would otherwise import on the first request. Runs in the worker.

The sentinel guesses which parts the site will use. If a part cannot be loaded, the sentinel reports it and skips it,
unless every request would fail without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from django_workerguard.sentinel.optional_parts import OptionalParts

# modules that request handling, forms, the debug page and the error page import at their first use
LATE_IMPORTS = (
    "django.core.handlers.exception",
    "django.core.serializers.json",
    "django.http.multipartparser",
    "django.views.debug",
    "django.views.csrf",
    "django.views.defaults",
    "django.forms.renderers",
    "django.template.defaulttags",
    "django.template.loader_tags",
    "django.utils.formats",
    "django.utils.translation",
    "encodings.idna",
    "encodings.unicode_escape",
    "zoneinfo",
    "asgiref.sync",
    "_strptime",
    "html.parser",
    "urllib.parse",
    "mimetypes",
)
LATE_BY_APP = {
    "django.contrib.auth": ("django.contrib.auth.views",),
    "django.contrib.admin": (
        "django.contrib.admin.views.main",
        "django.contrib.admin.templatetags.admin_list",
        "django.contrib.admin.forms",
        "django.contrib.admin.actions",
        "difflib",
    ),
    "django.contrib.sessions": ("django.contrib.sessions.serializers",),
    "django.contrib.messages": ("django.contrib.messages.storage.fallback",),
    "django.contrib.staticfiles": ("django.views.static",),
}
CACHE_SESSIONS = ("django.contrib.sessions.backends.cache", "django.contrib.sessions.backends.cached_db")
SMTP = "django.core.mail.backends.smtp.EmailBackend"
Guess = tuple[str, Callable[[], Any]]


def load_lazy_parts(parts: OptionalParts) -> None:
    """Import and build all parts that Django loads lazily and that this project uses.

    Raises only errors that every request would raise; see `_load_required`.
    """
    from django.conf import settings

    _load_required(settings)
    for name in _late_imports():
        with parts.part(name):
            _import_if_there(name)
    for setting, guesses in BY_SETTING.items():
        with parts.part(setting):
            for part, load in guesses(settings):
                with parts.part(part):
                    load()


def _late_imports() -> Iterator[str]:
    yield from LATE_IMPORTS
    for app, names in LATE_BY_APP.items():
        yield from names if _installed(app) else ()


def _import_if_there(name: str) -> None:
    if find_spec(name) is not None:  # otherwise this version of Django does not have it
        import_module(name)


# required by every request


def _load_required(settings: Any) -> None:
    """Build the caches and database back ends that Django or its middleware uses for each request.

    Neither "default" is one of them by its name: without models and sessions Django asks for none. Models import the
    default database themselves.
    """
    from django.core.cache import caches

    for alias in _caches_of_requests(settings):
        caches[alias]
    for alias, values in settings.DATABASES.items():
        if values.get("ATOMIC_REQUESTS"):
            _load_database(alias)


def _caches_of_requests(settings: Any) -> Iterator[str]:
    for path in settings.MIDDLEWARE:
        if path.endswith(("UpdateCacheMiddleware", "FetchFromCacheMiddleware", ".CacheMiddleware")):
            yield settings.CACHE_MIDDLEWARE_ALIAS
        if path.endswith("SessionMiddleware") and settings.SESSION_ENGINE in CACHE_SESSIONS:
            yield settings.SESSION_CACHE_ALIAS


def _load_database(alias: str) -> None:
    from django.db import connections

    connection = connections[alias]
    for part in ("ops", "features", "introspection", "client"):
        getattr(connection, part, None)
    import_module(connection.ops.compiler_module)


# optional parts: the name of the part, and the function that loads it


def _languages(settings: Any) -> Iterator[Guess]:
    if settings.USE_I18N:
        yield "gettext", partial(import_module, "gettext")
        yield "django.utils.translation", partial(import_module, "django.utils.translation.trans_real")
    yield f"LANGUAGE_CODE: {settings.LANGUAGE_CODE}", partial(_load_language, settings.LANGUAGE_CODE)


def load_languages(parts: OptionalParts) -> None:
    """Load the catalogue and the formats of each language in LANGUAGES."""
    from django.conf import settings

    for code, _ in settings.LANGUAGES if settings.USE_I18N else ():
        with parts.part(f"LANGUAGES: {code}"):
            _load_language(code)


def _load_language(code: str) -> None:
    from django.utils import formats, translation

    with translation.override(code):
        translation.gettext("")
        formats.get_format("DECIMAL_SEPARATOR")
        formats.get_format_modules(code)


def _sessions(settings: Any) -> Iterator[Guess]:
    if _installed("django.contrib.sessions"):
        yield f"SESSION_ENGINE: {settings.SESSION_ENGINE}", partial(import_module, settings.SESSION_ENGINE)


def _backends(settings: Any) -> Iterator[Guess]:
    if _installed("django.contrib.auth"):
        from django.contrib import auth

        yield "AUTH_USER_MODEL", auth.get_user_model
        for path in settings.AUTHENTICATION_BACKENDS:
            yield f"AUTHENTICATION_BACKENDS: {path}", partial(auth.load_backend, path)


def _hashers(_settings: Any) -> Iterator[Guess]:
    if _installed("django.contrib.auth"):
        from django.contrib.auth import hashers

        for hasher in hashers.get_hashers():
            library = getattr(hasher, "library", None)
            for name in (library,) if isinstance(library, str) else (library or ()):
                yield f"PASSWORD_HASHERS: {name}", partial(_import_if_there, name)


def _password_validators(settings: Any) -> Iterator[Guess]:
    """Yield the classes without building them: Django's list of common passwords takes 1.6 MB."""
    if _installed("django.contrib.auth"):
        for validator in settings.AUTH_PASSWORD_VALIDATORS:
            yield f"AUTH_PASSWORD_VALIDATORS: {validator['NAME']}", partial(_import_string, validator["NAME"])


def _messages(settings: Any) -> Iterator[Guess]:
    if _installed("django.contrib.messages"):
        yield (
            f"MESSAGE_STORAGE: {settings.MESSAGE_STORAGE}",
            partial(_import_string, settings.MESSAGE_STORAGE),
        )


def _caches(settings: Any) -> Iterator[Guess]:
    from django.core.cache import caches

    for alias in settings.CACHES:
        yield f"CACHES: {alias}", partial(caches.__getitem__, alias)


def _databases(settings: Any) -> Iterator[Guess]:
    for alias in settings.DATABASES:
        yield f"DATABASES: {alias}", partial(_load_database, alias)


def _storages(settings: Any) -> Iterator[Guess]:
    from django.core.files.storage import storages

    for alias in settings.STORAGES:
        if alias != "staticfiles" or _installed("django.contrib.staticfiles"):
            yield f"STORAGES: {alias}", partial(storages.__getitem__, alias)


def _upload_handlers(settings: Any) -> Iterator[Guess]:
    for path in settings.FILE_UPLOAD_HANDLERS:
        yield f"FILE_UPLOAD_HANDLERS: {path}", partial(_import_string, path)


def _form_renderer(_settings: Any) -> Iterator[Guess]:
    from django.forms.renderers import get_default_renderer

    yield "FORM_RENDERER", get_default_renderer


def _exception_filter(_settings: Any) -> Iterator[Guess]:
    from django.views.debug import get_default_exception_reporter_filter

    yield "DEFAULT_EXCEPTION_REPORTER_FILTER", get_default_exception_reporter_filter


def _mailers(settings: Any) -> Iterator[Guess]:
    """Yield the back ends of MAILERS, a setting of Django 6.1 and later."""
    mailers: Mapping[str, Mapping[str, Any]] = getattr(settings, "MAILERS", {})
    for alias, mailer in mailers.items():
        yield f"MAILERS: {alias}", partial(_import_string, mailer.get("BACKEND", SMTP))


def _email_backend(settings: Any) -> Iterator[Guess]:
    """Yield EMAIL_BACKEND. Django 6.1 deprecates it, and does not have it if MAILERS is set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # here the sentinel reads the deprecated setting, not the site
        path = getattr(settings, "EMAIL_BACKEND", None)
    if path:
        yield f"EMAIL_BACKEND: {path}", partial(_import_string, path)


def _csrf_failure_view(settings: Any) -> Iterator[Guess]:
    if any(path.endswith("CsrfViewMiddleware") for path in settings.MIDDLEWARE):
        from django.urls import get_callable

        yield (
            f"CSRF_FAILURE_VIEW: {settings.CSRF_FAILURE_VIEW}",
            partial(get_callable, settings.CSRF_FAILURE_VIEW),
        )


# keys: the setting that decides which parts are loaded
BY_SETTING: Mapping[str, Callable[[Any], Iterator[Guess]]] = {
    "LANGUAGE_CODE": _languages,
    "SESSION_ENGINE": _sessions,
    "AUTHENTICATION_BACKENDS": _backends,
    "PASSWORD_HASHERS": _hashers,
    "AUTH_PASSWORD_VALIDATORS": _password_validators,
    "MESSAGE_STORAGE": _messages,
    "CACHES": _caches,
    "DATABASES": _databases,
    "STORAGES": _storages,
    "FILE_UPLOAD_HANDLERS": _upload_handlers,
    "FORM_RENDERER": _form_renderer,
    "DEFAULT_EXCEPTION_REPORTER_FILTER": _exception_filter,
    "MAILERS": _mailers,
    "EMAIL_BACKEND": _email_backend,
    "CSRF_FAILURE_VIEW": _csrf_failure_view,
}


def _installed(app: str) -> bool:
    from django.apps import apps

    return apps.is_installed(app)


def _import_string(path: str) -> Any:
    from django.utils.module_loading import import_string

    return import_string(path)
