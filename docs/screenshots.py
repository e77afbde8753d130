"""Take the pictures of the dashboard for the documentation: ``python -m docs.screenshots``. Needs Chromium; a minute.

The pages are real, and the boards behind them are those of the browser tests: see tests/boards.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import django
from playwright.sync_api import Browser, sync_playwright

IMAGES = Path(__file__).resolve().parent / "images"

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

from tests.boards import Fleet  # noqa: E402 - needs the settings
from tests.browser.board_site import BoardSite  # noqa: E402


def two_cannot_load() -> Fleet:
    fleet = Fleet(8)
    fleet.back_off(2)
    fleet.back_off(5, next_try=3)
    fleet.in_hand(3, 12.3)
    fleet.errors(6, 17)
    return fleet


def many() -> Fleet:
    fleet = Fleet(64)
    fleet.back_off(7)
    fleet.back_off(40)
    fleet.slow(12)
    fleet.stuck(33)
    return fleet


@dataclass(frozen=True)
class Picture:
    """A page over a board, at a size."""

    fleet: Callable[[], Fleet]
    path: str = ""
    width: int = 1100
    height: int = 720
    scheme: str = "light"


PICTURES: Mapping[str, Picture] = {
    "dashboard.png": Picture(two_cannot_load, height=1180),
    "slot.png": Picture(two_cannot_load, "slot/2/", height=900),
    "dashboard-64.png": Picture(many, width=1280, height=800, scheme="dark"),
    "dashboard-telephone.png": Picture(two_cannot_load, width=360, height=740),
}


def take(browser: Browser, site: BoardSite, name: str, picture: Picture) -> None:
    site.show(picture.fleet())
    size = {"width": picture.width, "height": picture.height}
    page = browser.new_context(viewport=size, color_scheme=picture.scheme).new_page()
    page.goto(site.url + picture.path)
    page.wait_for_function("window.wgKeepsUpToDate")
    page.screenshot(path=IMAGES / name)
    page.context.close()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    site = BoardSite()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for name, picture in PICTURES.items():
                take(browser, site, name, picture)
            browser.close()
    finally:
        site.end()


if __name__ == "__main__":
    main()
