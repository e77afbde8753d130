"""Which modules a reload drops from the arbiter."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

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
