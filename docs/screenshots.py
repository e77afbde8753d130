"""Take the pictures of the documentation from the running example: ``python docs/screenshots.py``. Needs Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from django_workerguard.testing import GuardedServer

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "example_project"
IMAGES = ROOT / "docs" / "images"
PASSWORD = "of a database that is thrown away"  # noqa: S105
USER = f"from django.contrib.auth.models import User; User.objects.create_superuser('admin', password={PASSWORD!r})"


def example(directory: Path) -> GuardedServer:
    """Serve the example site, with some requests, a failed load and a reload behind it."""
    environ = {
        "DJANGO_SETTINGS_MODULE": "site_config.settings",
        "EXAMPLE_DATABASE": str(directory / "db.sqlite3"),
        "EXAMPLE_FAULTS": str(directory / "faults"),
        "EXAMPLE_RELEASE": "2026.11",
    }
    for arguments in (("migrate", "--verbosity", "0"), ("shell", "--verbosity", "0", "--command", USER)):
        subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=EXAMPLE,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            check=True,
        )
    arguments = (
        "--bind",
        "127.0.0.1:0",
        "-w",
        "4",
        "--load-retry-delay",
        "5s",
        "--load-retry-max-delay",
        "20s",
    )
    return GuardedServer(EXAMPLE, directory / "run", arguments, environ).start()


def live_a_little(server: GuardedServer, url: str, faults: Path) -> None:
    """Let something happen that is worth a picture."""

    def visit(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            urllib.request.urlopen(f"{url}/books/").read()  # noqa: S310
            time.sleep(0.01)

    visit(25)
    server.kill_worker(3)
    server.wait_ready()
    visit(20)
    faults.mkdir()
    (faults / "fail-next-loads").write_text("100")
    server.kill_worker(2)
    visit(20)


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="screenshots-"))
    server = example(directory)
    IMAGES.mkdir(exist_ok=True)
    try:
        server.wait_ready()
        url = next(address for address in server.status()["bind"] if address.startswith("http://"))
        live_a_little(server, url, directory / "faults")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_context(viewport={"width": 1100, "height": 700}).new_page()
            page.goto(f"{url}/workerguard/")
            page.fill("#id_username", "admin")
            page.fill("#id_password", PASSWORD)
            page.click("[type=submit]")
            page.wait_for_selector(".wg-tile")
            page.screenshot(path=IMAGES / "dashboard.png", full_page=True)
            page.goto(f"{url}/workerguard/slot/1/")
            page.screenshot(path=IMAGES / "slot.png", full_page=True)
            browser.close()
    finally:
        server.end()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
