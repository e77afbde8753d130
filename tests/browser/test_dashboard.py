"""The dashboard of a running server, in a browser, under a policy that allows no inline script and no inline style.

`test_page` has what needs no server.
"""

from __future__ import annotations

import os
import re
import signal

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD

pytestmark = pytest.mark.needs("chromium")


def log_in(page, site, user="admin"):
    page.goto(f"{site.url}/workerguard/")
    page.fill("#id_username", user)
    page.fill("#id_password", PASSWORD)
    page.click("[type=submit]")
    expect(page.locator(".wg-tile")).to_have_count(3)


def test_the_fleet_and_a_slot_are_shown_and_kept_up_to_date(site, page):
    log_in(page, site)
    expect(page.locator(".wg-headline")).to_contain_text("3 of 3 ready")
    expect(page.locator(".wg-headline")).to_contain_text("release 2026.11")
    expect(page.locator(".wg-lives path.wg-bar-ready")).to_have_attribute("d", re.compile("M"))
    victim = site.slot(2)["pid"]
    expect(page.locator(".wg-now")).to_contain_text(f"pid {victim}")
    os.kill(victim, signal.SIGKILL)
    expect(page.locator(".wg-now")).not_to_contain_text(f"pid {victim}")
    page.goto(f"{site.url}/workerguard/?window=60")
    expect(page.locator(".wg-happened")).to_contain_text(
        f"Slot 2: worker (pid {victim}) ended: killed by SIGKILL"
    )
    site.wait_ready()
    page.click("text=Slot 2")
    victim = site.slot(2)["pid"]
    expect(page.locator(".wg-facts")).to_contain_text(str(victim))
    os.kill(victim, signal.SIGKILL)
    expect(page.locator(".wg-facts")).not_to_contain_text(str(victim))
    assert page.complaints == []


def test_a_failing_load_is_seen_with_its_reason_and_its_traceback(own_site, page, tmp_path):
    site = own_site
    log_in(page, site)
    faults = tmp_path / "faults"
    faults.mkdir(exist_ok=True)
    (faults / "fail-urlconf").touch()
    os.kill(site.slot(1)["pid"], signal.SIGKILL)
    site.wait("slot 1 backs off", lambda status: status["slots"][0]["failures"] >= 1)
    expect(page.locator(".wg-findings")).to_contain_text("slot 1 cannot load")
    page.goto(f"{site.url}/workerguard/slot/1/")
    expect(page.locator("#wg-traceback pre")).to_be_visible()
    expect(page.locator("#wg-traceback mark").last).to_contain_text("example_project")
    expect(page.locator(".wg-waterfall text").first).to_contain_text("app")
    expect(page.locator("text=Steps that passed before the error")).to_be_visible()
    page.click("#wg-traceback summary")
    with page.expect_response(re.compile("/now/")):
        pass
    expect(page.locator("#wg-traceback pre")).to_be_hidden()
    assert page.complaints == []


def test_a_worker_is_replaced_after_a_confirmation_and_the_journal_has_the_user(site, page):
    log_in(page, site)
    pid = site.slot(3)["pid"]
    page.click("text=Slot 3")
    expect(page.locator(".wg-waterfall rect")).not_to_have_count(0)
    page.click("text=Replace the worker")
    assert site.slot(3)["pid"] == pid, "nothing is done before it is confirmed"
    expect(page.locator(".wg")).to_contain_text(f"Server: {site.status()['name']} on")
    page.click("button:has-text('Replace the worker of slot 3')")
    expect(page.locator(".wg-verdict")).to_have_text("recycle: done.")
    expect(page.locator(".wg-happened")).to_contain_text(f"worker (pid {pid}) was asked to leave")
    assert site.wait_event("exited", lambda event: event["pid"] == pid)
    assert site.events("asked")[-1]["by_user"] == "admin"
    assert (
        "admin on the dashboard" in site.wait_event("retiring", lambda event: event["pid"] == pid)["reason"]
    )
    assert page.complaints == []


def test_a_reload_from_the_page_ends_with_the_verdict_of_the_command(site, page):
    log_in(page, site)
    generation = site.status()["arbiter"]["generation"]
    page.click("text=Reload…")
    page.click("button:has-text('Reload the server')")
    expect(page.locator(".wg-verdict")).to_have_text("reload: done.")
    page.click("text=All slots")
    expect(page.locator(".wg-headline")).to_contain_text(f"generation {generation + 1}")


def test_staff_without_the_permission_see_and_cannot_act(site, page):
    log_in(page, site, "clerk")
    expect(page.locator("text=Reload…")).to_have_count(0)
    assert page.goto(f"{site.url}/workerguard/reload/").status == 403
    assert page.goto(f"{site.url}/workerguard/slot/1/recycle/").status == 403


@pytest.mark.browser_context(java_script_enabled=False)
def test_it_can_be_read_and_used_with_scripts_switched_off(site, page):
    log_in(page, site)
    expect(page.locator(".wg-headline")).to_contain_text("3 of 3 ready")
    assert page.locator("meta[http-equiv=refresh]").count() == 0, "nothing closes what is being read"
    page.click("#wg-latest-lives summary")
    expect(page.locator("#wg-latest-lives td").first).to_be_visible()
    page.click("[data-wg-late] a")
    pid = site.slot(1)["pid"]
    page.click("text=Slot 1")
    page.click("text=Replace the worker")
    page.click("button:has-text('Replace the worker')")
    site.wait_event("exited", lambda event: event["pid"] == pid)
    page.click("[data-wg-late] a")
    expect(page.locator(".wg-verdict")).to_have_text("recycle: done.")


def test_the_admin_has_an_entry_and_the_page_leads_back(site, page):
    log_in(page, site)
    page.click(".wg-crumbs >> text=Administration")
    expect(page.locator(".app-workerguard")).to_contain_text("3 of 3 ready")
    page.click(".app-workerguard >> text=Workers")
    expect(page.locator(".wg-count")).to_contain_text("3 of 3 ready")


def test_who_is_logged_out_is_told_so(site, page):
    log_in(page, site)
    page.context.clear_cookies()
    expect(page.locator("#wg-bar")).to_contain_text("You are logged out")
    page.click("#wg-bar a")
    expect(page.locator("#id_username")).to_be_visible()


def test_a_server_that_hangs_or_is_dead_is_not_shown_as_one_that_is_well(own_site, page):
    site = own_site
    log_in(page, site)
    stopped = [site.arbiter, *site.pids()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        expect(page.locator("#wg-bar")).to_contain_text("the server does not answer")
        expect(page.locator("body")).to_have_class(re.compile("wg-stale"))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    expect(page.locator("#wg-bar")).to_be_hidden()
    expect(page.locator("body")).not_to_have_class(re.compile("wg-stale"))
    site.stop()
    expect(page.locator("#wg-bar")).to_contain_text("No answer since")
    expect(page.locator("body")).to_have_class(re.compile("wg-stale"))
