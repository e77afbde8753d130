"""Import what Django would otherwise import on the first request. Runs in the worker.

Each piece only where the project uses it; a piece that is not installed is no failure of
the project's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# what request handling, forms, the debug page and the error page import when they are first needed
LATE_IMPORTS = (
    "django.core.handlers.exception",
    "django.core.serializers.json",
    "django.http.multipartparser",
    "django.views.debug",
    "django.views.csrf",
    "django.views.defaults",
    "django.views.static",
    "django.views.i18n",
    "django.forms.renderers",
    "django.template.defaulttags",
    "django.template.loader_tags",
    "django.utils.formats",
    "django.utils.translation",
    "encodings.idna",
    "encodings.punycode",
    "encodings.unicode_escape",
    "zoneinfo",
    "email.mime.text",
    "asgiref.sync",
    "_strptime",
    "difflib",
    "html.parser",
    "urllib.parse",
    "mimetypes",
)
LATE_BY_APP = {
    "django.contrib.auth": ("django.contrib.auth.handlers.modwsgi", "django.contrib.auth.views"),
    "django.contrib.admin": (
        "django.contrib.admin.views.main",
        "django.contrib.admin.templatetags.admin_list",
        "django.contrib.admin.forms",
        "django.contrib.admin.actions",
    ),
    "django.contrib.sessions": ("django.contrib.sessions.serializers",),
    "django.contrib.messages": ("django.contrib.messages.storage.fallback",),
}


def load_lazy_parts() -> None:
    """Import and build everything that Django keeps for later. Raises what the project's own parts raise."""
    from django.conf import settings

    for module in LATE_IMPORTS:
        _import_if_there(module)
    for app, modules in LATE_BY_APP.items():
        if app in settings.INSTALLED_APPS or any(
            str(a).startswith(f"{app}.") for a in settings.INSTALLED_APPS
        ):
            for module in modules:
                _import_if_there(module)
    for part in (
        _translations,
        _sessions,
        _auth,
        _messages,
        _caches,
        _databases,
        _storages,
        _handlers,
        _csrf,
    ):
        part(settings)


def _import_if_there(name: str) -> None:
    try:
        if find_spec(name) is not None:
            import_module(name)
    except ImportError:
        return  # not part of this version of Django


def _translations(settings: Any) -> None:
    from django.conf import global_settings
    from django.utils import formats, translation

    if settings.USE_I18N:
        import_module("django.utils.translation.trans_real")
        import_module("gettext")
    visitors = _languages(settings)
    # all of Django's some hundred catalogues are too much for a worker that may never need them
    chosen = visitors if settings.LANGUAGES != global_settings.LANGUAGES else ()
    for code in dict.fromkeys((settings.LANGUAGE_CODE, *chosen)):
        with translation.override(code):
            translation.gettext("")
            formats.get_format("DECIMAL_SEPARATOR")
    for code in dict.fromkeys((settings.LANGUAGE_CODE, *visitors)):
        formats.get_format_modules(code)


def _languages(settings: Any) -> tuple[str, ...]:
    """Return the languages that a visitor could bring along, where LocaleMiddleware would follow."""
    follows = any(path.endswith("LocaleMiddleware") for path in settings.MIDDLEWARE)
    return tuple(code for code, _ in settings.LANGUAGES) if settings.USE_I18N and follows else ()


def _sessions(settings: Any) -> None:
    if _installed("django.contrib.sessions"):
        import_module(settings.SESSION_ENGINE)


def _auth(settings: Any) -> None:
    if not _installed("django.contrib.auth"):
        return
    from django.contrib import auth
    from django.contrib.auth import hashers, password_validation

    auth.get_user_model()
    for backend in settings.AUTHENTICATION_BACKENDS:
        auth.load_backend(backend)
    hashers.get_hashers()
    hashers.get_hasher("default")
    for hasher in hashers.get_hashers():
        library = getattr(hasher, "library", None)
        for name in (library,) if isinstance(library, str) else (library or ()):
            _import_if_there(name)
    password_validation.get_default_password_validators()


def _messages(settings: Any) -> None:
    if _installed("django.contrib.messages"):
        _import_string(settings.MESSAGE_STORAGE)


def _caches(settings: Any) -> None:
    from django.core.cache import caches

    for alias in settings.CACHES:
        with _unless_it_is_spare(alias):
            caches[alias]


def _databases(settings: Any) -> None:
    from django.db import connections

    for alias in settings.DATABASES:
        connection = connections[alias]
        for part in ("ops", "features", "introspection", "client"):
            getattr(connection, part, None)
        import_module(connection.ops.compiler_module)


def _storages(settings: Any) -> None:
    from django.core.files.storage import storages

    for alias in settings.STORAGES:
        if alias == "staticfiles" and not _installed("django.contrib.staticfiles"):
            continue
        with _unless_it_is_spare(alias):
            storages[alias]


@contextlib.contextmanager
def _unless_it_is_spare(alias: str) -> Iterator[None]:
    """Let what fails for an alias of the project's own pass: perhaps nothing here uses it."""
    try:
        yield
    except Exception:
        if alias in ("default", "staticfiles"):
            raise


def _handlers(settings: Any) -> None:
    for path in (*settings.FILE_UPLOAD_HANDLERS, settings.EMAIL_BACKEND):
        _import_string(path)
    from django.forms.renderers import get_default_renderer
    from django.views.debug import get_default_exception_reporter_filter

    get_default_renderer()
    get_default_exception_reporter_filter()


def _csrf(settings: Any) -> None:
    if any(path.endswith("CsrfViewMiddleware") for path in settings.MIDDLEWARE):
        from django.urls import get_callable

        get_callable(settings.CSRF_FAILURE_VIEW)


def _installed(app: str) -> bool:
    from django.apps import apps

    return apps.is_installed(app)


def _import_string(path: str) -> Any:
    from django.utils.module_loading import import_string

    return import_string(path)
