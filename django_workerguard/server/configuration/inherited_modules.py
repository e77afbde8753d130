"""Modules of the site that the arbiter has to import, and that its workers inherit. Runs in the arbiter.

The configuration imports them, or a file that Python runs when it starts, such as sitecustomize.py. A worker would go on
with them however often the site is reloaded. So a reload drops them first: what the configuration needs of them is
imported again, and the workers import the rest by themselves.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from django_workerguard.server.configuration.replaced_functions import ReplacedFunctions
from django_workerguard.worker.import_caches import clear_import_caches

OURS = "django_workerguard"
CONFIGURATION = "__config__"  # as gunicorn names the module of gunicorn.conf.py
# packages whose modules run the server, also if something else has imported them
SERVERS = frozenset({"gunicorn", OURS, "uvicorn", "uvicorn_worker", "__main__", "__mp_main__"})
# installed packages in which the site's modules leave what they define: it would be the old one, or defined twice
REGISTRIES = frozenset({"django", "prometheus_client"})
INSTALLED = frozenset({"site-packages", "dist-packages"})
STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
# what Python runs when it starts: nothing would import them again
RUN_BY_PYTHON = frozenset({"sitecustomize", "usercustomize"})


class InheritedModules:
    """Modules of the site that the arbiter has imported since this object was made, or that lay in the project before.

    ``functions``: those of the standard library that the site has replaced meanwhile.
    """

    def __init__(self, project: str = "/") -> None:
        """``project``: the project's directory; "/": none."""
        self.functions = ReplacedFunctions()
        self._of_the_site: frozenset[str] = frozenset()
        never = SERVERS | RUN_BY_PYTHON | sys.stdlib_module_names
        root = os.path.realpath(project)
        before = {name for name, module in list(sys.modules.items()) if root != "/" and _is_in(root, module)}
        self._before = {_package(name) for name in before} - never
        own = {_package(name) for name in sys.modules} - self._before
        self._own = (own - REGISTRIES if self._before else own) | never
        self._own_django_side = frozenset() if self._before else frozenset(_django_side())

    def recognise(self, names: Iterable[str]) -> None:
        """Take the packages of these modules and objects for the site's, wherever they lie."""
        self._of_the_site = frozenset(_package(name.partition(":")[0]) for name in names if name) - self._own

    def names(self) -> list[str]:
        """Return the site's modules that are held now, and the installed ones in which the site may have left something."""
        modules = {name: module for name, module in sys.modules.items() if _package(name) not in self._own}
        on_django = {_package(name) for name, module in modules.items() if _holds_django(module)}
        compiled = {name for name, module in modules.items() if _is_compiled(module)}
        once = {_package(name) for name in compiled} - on_django  # such as numpy: it refuses a second import
        site = {_package(name) for name, module in modules.items() if not _is_installed(module)} - once
        site |= self._of_the_site & {_package(name) for name in modules}
        renewed = site | REGISTRIES | on_django
        side = _django_side() - self._own_django_side
        if site <= {CONFIGURATION} and not _is_django_used():
            renewed, side = site | REGISTRIES - {"django"}, set()
        names = {name for name in modules if _package(name) in renewed} - compiled
        return sorted(names | side)

    def packages(self) -> list[str]:
        """Return the names of the packages to which they belong."""
        return sorted({_package(name) for name in self.names()} - {CONFIGURATION, OURS})

    @property
    def has_early(self) -> bool:
        """Whether modules that were there before this object are still held."""
        return bool(self._before)

    def drop(self) -> dict[str, ModuleType]:
        """Forget them, and where modules were found so far. Return them, for `bring_back`."""
        dropped = {name: sys.modules.pop(name) for name in self.names()}
        for names, attribute, module in _in_kept_packages(dropped):
            if names.get(attribute) is module:  # `from package import module` would find it
                del names[attribute]
        clear_import_caches()
        self._before &= {_package(name) for name in sys.modules}
        return dropped

    def bring_back(self, dropped: dict[str, ModuleType]) -> None:
        """Put dropped modules back in place of those that were imported since."""
        release(self.drop())
        for names, attribute, module in _in_kept_packages(dropped):
            names.setdefault(attribute, module)
        sys.modules.update(dropped)


def release(dropped: Mapping[str, ModuleType]) -> None:
    """Take back the finalizers of a dropped Django, which its signals have: they would keep every module in memory."""
    namespaces = {id(vars(module)) for name, module in dropped.items() if _package(name) in REGISTRIES}
    registry = vars(weakref.finalize).get("_registry") or {}
    for finalizer, about in list(registry.items()):
        function = getattr(about.func, "__func__", about.func)
        if id(getattr(function, "__globals__", None)) in namespaces:
            finalizer.detach()


def _in_kept_packages(
    dropped: Mapping[str, ModuleType],
) -> Iterator[tuple[dict[str, Any], str, ModuleType]]:
    """Yield the dropped modules whose package stays: the names of the package, the name of the module in it, the module."""
    for name, module in dropped.items():
        package, _, attribute = name.rpartition(".")
        if package in sys.modules and package not in dropped:
            yield vars(sys.modules[package]), attribute, module


def _django_side() -> set[str]:
    """Return the modules of this package that hold parts of Django, or of one another: the site has imported them."""
    found: set[str] = set()
    ours = {name: module for name, module in sys.modules.items() if _package(name) == OURS}
    while "django" in sys.modules:
        more = {
            name
            for name, module in ours.items()
            if any(
                (home := _home(value)) in found or _package(home) == "django"
                for value in list(vars(module).values())
            )
        }
        if more <= found:
            break
        found |= more
    return found - {OURS}


def _is_in(root: str, module: ModuleType) -> bool:
    """Say whether the file of a module is below a directory, but not in a site-packages below it."""
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", None) or ())
    paths = [Path(os.path.realpath(place)) for place in places]
    return any(path.is_relative_to(root) and not INSTALLED & set(path.parts) for path in paths)


def _package(name: str) -> str:
    return name.partition(".")[0]


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    places = [file] if file else list(getattr(module, "__path__", ()))
    return all(INSTALLED & set(Path(place).parts) or place.startswith(STANDARD_LIBRARY) for place in places)


def _is_compiled(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", None)).endswith(".so")


def _holds_django(module: ModuleType) -> bool:
    return any(_package(_home(value)) == "django" for value in list(vars(module).values()))


def _is_django_used() -> bool:
    """Say whether Django, if it was imported, holds settings or models."""
    conf, registry = sys.modules.get("django.conf"), sys.modules.get("django.apps.registry")
    has_settings = conf is not None and getattr(conf.settings, "configured", True)
    return bool(has_settings or (registry is not None and registry.apps.all_models))


def _home(value: object) -> str:
    """Return the name of the module that a value comes from, without asking the value: it may be a proxy."""
    kind = type(value)  # `isinstance` would ask it for its class, and Django's settings would be read
    if issubclass(kind, ModuleType):
        return str(vars(value).get("__name__"))
    defined = value if issubclass(kind, type | FunctionType) else kind
    return str(getattr(defined, "__module__", None))
