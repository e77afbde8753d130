"""Sphinx's configuration: `make docs`."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "django-workerguard"
author = "The django-workerguard contributors"
version = release = version_of("django-workerguard")
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"django-workerguard {version}"
html_static_path: list[str] = []
myst_heading_anchors = 3
nitpicky = True
