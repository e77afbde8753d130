"""Which modules a reload drops from the arbiter."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import pytest

from django_workerguard.server.configuration import inherited_modules
from django_workerguard.server.configuration.inherited_modules import InheritedModules


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A package of a site, and an installed one that defines something with Django and one that does not."""
    monkeypatch.syspath_prepend(tmp_path)
    installed = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(installed)
    for path, text in (
        (tmp_path / "wg_shop", "MARK = 'one'"),
        (installed / "wg_on_django", "from django.http import HttpResponse"),
        (installed / "wg_plain", "import json"),
    ):
        path.mkdir(parents=True)
        (path / "__init__.py").write_text(text)
        (path / "part.py").write_text("")
    yield tmp_path / "wg_shop" / "__init__.py"
    for name in [name for name in sys.modules if name.startswith("wg_")]:
        del sys.modules[name]


def test_the_site_s_modules_are_dropped_and_brought_back(shop):
    inheritance = InheritedModules()
    for name in ("wg_on_django", "wg_plain", "wg_shop"):
        import_module(f"{name}.part")

    assert inheritance.packages() == ["wg_on_django", "wg_shop"]
    first = sys.modules["wg_shop"]
    dropped = inheritance.drop()
    assert inheritance.names() == []
    assert {"wg_plain", "wg_plain.part"} <= sys.modules.keys()
    shop.write_text("MARK = 'of the next release'")
    assert import_module("wg_shop").MARK == "of the next release"
    inheritance.bring_back(dropped)
    assert sys.modules["wg_shop"] is first
    assert {"wg_shop.part", "wg_on_django.part"} <= sys.modules.keys()


@pytest.mark.parametrize("used", [True, False])
def test_installed_packages_stay_if_the_site_has_left_nothing_in_django(shop, monkeypatch, used):
    monkeypatch.setattr(inherited_modules, "_is_django_used", lambda: used)
    inheritance = InheritedModules()
    import_module("wg_on_django")
    assert inheritance.packages() == (["wg_on_django"] if used else [])


def test_a_package_that_can_be_imported_only_once_stays(shop):
    """As numpy in a directory of the site's own, which refuses a second import."""
    inheritance = InheritedModules()
    for name in ("wg_fast", "wg_fast.core", "wg_shop", "wg_shop.core"):
        module = ModuleType(name)
        module.__file__ = str(shop.with_name(f"{name}.so" if name.endswith("core") else f"{name}.py"))
        sys.modules[name] = module
    sys.modules["wg_shop"].view = import_module("wg_on_django").HttpResponse
    assert [name for name in inheritance.names() if name.startswith(("wg_fast", "wg_shop"))] == ["wg_shop"]


def test_no_value_of_a_module_is_asked_for_anything(shop):
    class Settings:
        @property
        def __class__(self):
            raise RuntimeError("the settings are read")

    inheritance = InheritedModules()
    import_module("wg_plain").settings = Settings()
    assert inheritance.names() == []


def test_a_name_that_hides_a_module_is_as_before(shop):
    inheritance = InheritedModules()
    import_module("wg_shop.part")
    package = sys.modules["wg_shop"]
    package.part = "a function of the same name"
    inheritance.bring_back(inheritance.drop())
    assert package.part == "a function of the same name"


def test_what_was_there_before_is_the_server_s_own(shop):
    import_module("wg_shop")
    inheritance = InheritedModules()
    import_module("wg_shop.part")

    assert inheritance.names() == []


def test_what_a_start_up_file_has_imported_of_the_project_is_the_site_s(shop):
    import_module("wg_shop")
    import_module("wg_plain")
    inheritance = InheritedModules(str(shop.parents[1]))

    assert inheritance.has_early
    # and what it may have left its models and metrics in, if another test has imported it
    assert set(inheritance.packages()) - {"prometheus_client"} == {"django", "wg_shop"}
