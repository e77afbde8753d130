"""What ``python -m django_workerguard serve`` hands to the server."""

from __future__ import annotations

import pytest

from django_workerguard import __main__ as command


@pytest.fixture
def handed(monkeypatch):
    handovers = []
    monkeypatch.setattr(command, "launch", handovers.append)

    def handed(*arguments):
        command.main(["serve", *arguments])
        return handovers[-1]

    return handed


@pytest.mark.parametrize("content", ["manage.py", "mysite/settings.py", "mysite/settings/__init__.py"])
def test_the_directory_of_the_import_path_that_has_the_settings_is_the_project_s(
    handed, tmp_path, monkeypatch, content
):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (site / content).parent.mkdir(parents=True)
    (site / content).touch()
    monkeypatch.chdir(elsewhere)
    for given in (str(site), "../site", "../site/"):
        handover = handed("--settings", "mysite.settings", "--pythonpath", given)
        assert (handover.project, handover.directory) == (str(site), str(elsewhere))
        assert handover.sys_path[:2] == [str(elsewhere), str(site)]


def test_a_directory_of_libraries_is_not_the_project_s(handed, tmp_path, monkeypatch):
    (tmp_path / "library").mkdir()
    monkeypatch.chdir(tmp_path)
    assert handed("--settings", "mysite.settings", "--pythonpath", "library").project == str(tmp_path)
    assert handed("--pythonpath", "library").project == str(tmp_path)
    (tmp_path / "library" / "manage.py").touch()
    (tmp_path / "mysite.py").touch()
    assert handed("--settings", "mysite", "--pythonpath", "library").project == str(tmp_path)
    assert handed("--settings", "mysite.settings").project == str(tmp_path)
