"""The dashboard, in a browser, under a policy that allows no inline script and no inline style."""

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


def test_the_fleet_is_shown_and_kept_up_to_date(site, page):
    log_in(page, site)
    expect(page.locator(".wg-headline")).to_contain_text("3 of 3 ready")
    expect(page.locator(".wg-tile").first).to_contain_text("2026.11")
    expect(page.locator(".wg-lives path.wg-bar-ready")).to_have_attribute("d", re.compile("M"))
    victim = site.slot(2)["pid"]
    os.kill(victim, signal.SIGKILL)
    expect(page.locator(".wg-tile").nth(1)).not_to_contain_text(f"pid {victim}")
    expect(page.locator(".wg-mark-died")).to_have_count(1)
    assert page.complaints == []


def test_a_failing_load_is_seen_with_its_reason_and_its_traceback(site, page, tmp_path):
    log_in(page, site)
    faults = tmp_path / "faults"
    faults.mkdir(exist_ok=True)
    (faults / "fail-next-loads").write_text("100")
    os.kill(site.slot(1)["pid"], signal.SIGKILL)
    site.wait("slot 1 backs off", lambda status: status["slots"][0]["failures"] >= 1)
    expect(page.locator(".wg-findings")).to_contain_text("slot 1 cannot load")
    page.focus("#wg-finding-load-failing-1")
    with page.expect_response(re.compile("/tiles/")):
        pass
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.id") == "wg-finding-load-failing-1"
    for selector in (".wg-findings a", ".wg-why", ".wg-button", ".wg-lives text", ".wg-events caption"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    page.goto(f"{site.url}/workerguard/slot/1/")
    expect(page.locator("#wg-traceback pre")).to_be_hidden()
    page.click("#wg-traceback summary")
    expect(page.locator("#wg-traceback pre")).to_contain_text("Traceback")
    with page.expect_response(re.compile("/now/")):
        pass
    expect(page.locator("#wg-traceback pre")).to_be_visible()
    expect(page.locator(".wg-findings")).to_contain_text("slot 1 cannot load")
    assert page.complaints == []


def test_a_script_that_does_not_arrive_is_asked_for_again(site, page):
    """A worker may be killed while it sends it."""
    page.route(re.compile(r"dashboard\.js\?v=\w+$"), lambda route: route.abort())
    log_in(page, site)
    expect(page.locator("[data-wg-fresh]")).to_have_text(re.compile(r"^As of [\d:]{8} UTC$"))


def test_a_page_without_its_script_says_that_it_is_old(site, page):
    page.route(re.compile(r"dashboard\.js"), lambda route: route.abort())
    log_in(page, site)
    expect(page.locator("[data-wg-fresh]")).to_contain_text("this page does not update itself")


def test_what_a_failed_load_got_through_is_shown(site, page, tmp_path):
    log_in(page, site)
    faults = tmp_path / "faults"
    faults.mkdir(exist_ok=True)
    (faults / "fail-urlconf").touch()
    os.kill(site.slot(1)["pid"], signal.SIGKILL)
    site.wait("slot 1 backs off", lambda status: status["slots"][0]["failures"] >= 1)
    page.goto(f"{site.url}/workerguard/slot/1/")
    expect(page.locator(".wg-waterfall text").first).to_contain_text("app")
    expect(page.locator("text=Steps that passed before the error")).to_be_visible()


def test_a_worker_is_replaced_after_a_confirmation_and_the_journal_has_the_user(site, page):
    log_in(page, site)
    pid = site.slot(3)["pid"]
    page.click("text=Slot 3")
    expect(page.locator(".wg-waterfall rect")).not_to_have_count(0)
    page.click("text=Replace the worker")
    assert site.slot(3)["pid"] == pid, "nothing is done before it is confirmed"
    page.click("button:has-text('Replace the worker of slot 3')")
    expect(page.locator(".wg-tile")).to_have_count(3)
    expect(page.locator(".wg-asked")).to_contain_text("the worker of slot 3 leaves")
    site.wait_event("exited", lambda event: event["pid"] == pid)
    assert site.events("asked")[-1]["by_user"] == "admin"
    assert (
        "admin on the dashboard" in site.wait_event("retiring", lambda event: event["pid"] == pid)["reason"]
    )
    assert page.complaints == []


def test_a_reload_from_the_page(site, page):
    log_in(page, site)
    page.click("text=Reload…")
    page.click("button:has-text('Reload the server')")
    site.wait_event("reloaded")
    expect(page.locator(".wg-headline")).to_contain_text("generation 2")


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
    page.locator("noscript a").click()
    expect(page.locator(".wg-headline")).to_contain_text("3 of 3 ready")
    pid = site.slot(1)["pid"]
    page.click("text=Slot 1")
    page.click("text=Replace the worker")
    page.click("button:has-text('Replace the worker')")
    site.wait_event("exited", lambda event: event["pid"] == pid)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_contrast(site, browser, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    log_in(page, site)
    for selector in (".wg-headline", ".wg-quiet", ".wg-tile h3 a", ".wg-tile dd", ".wg-state"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)
    context.close()


CONTRAST = """(selector) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const one = document.querySelector(selector);
  let behind = one, back = [0, 0, 0, 0];
  while (behind && (back.length === 4 && back[3] === 0)) {
    back = parse(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const style = getComputedStyle(one), ink = one instanceof SVGElement ? style.fill : style.color;
  const a = light(parse(ink)), b = light(back);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_the_keyboard_reaches_everything_and_the_focus_stays(site, page):
    log_in(page, site)
    page.focus("#wg-slot-2")
    with page.expect_response(re.compile("/tiles/")):
        pass
    page.wait_for_timeout(200)
    assert page.evaluate("document.activeElement.id") == "wg-slot-2"
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("Slot 2")


def test_a_screen_reader_is_told_names_and_states(site, page):
    log_in(page, site)
    expect(page.get_by_role("status").first).to_contain_text("3 of 3 ready")
    page.evaluate(WATCH, ".wg-said")
    for _ in range(2):
        with page.expect_response(re.compile("/tiles/")):
            pass
    page.wait_for_timeout(200)
    assert page.evaluate("window.wgChanges") == 0, "nothing is said that nobody has to know"
    os.kill(site.slot(2)["pid"], signal.SIGKILL)
    expect(page.locator(".wg-mark-died")).to_have_count(1)
    for table in ("#wg-latest", "#wg-latest-lives"):
        page.click(f"{table} summary")
        assert page.locator(f"{table} th:not([scope=col])").count() == 0
        assert page.locator(f"{table} th:empty").count() == 0
        expect(page.locator(f"{table} caption")).to_be_visible()
    expect(page.get_by_role("link", name="Slot 1", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("life of every slot"))).to_be_visible()


WATCH = """(selector) => {
  window.wgChanges = 0;
  new MutationObserver(() => window.wgChanges++)
    .observe(document.querySelector(selector), {childList: true, characterData: true, subtree: true});
}"""


@pytest.mark.browser_context(viewport={"width": 375, "height": 700})
def test_the_timeline_can_be_read_on_a_telephone(site, page):
    log_in(page, site)
    heights = (
        "Array.from(document.querySelectorAll('.wg-lives > text'), one => one.getBoundingClientRect().height)"
    )
    assert min(page.evaluate(heights)) >= 7
    wide = "Array.from(document.querySelectorAll('.wg, .wg > *'), one => one.getBoundingClientRect().right)"
    assert max(page.evaluate(wide)) <= 375, "what is ours does not have to be moved sideways"


def test_a_server_that_hangs_is_not_shown_as_one_that_is_well(site, page):
    log_in(page, site)
    expect(page.locator("[data-wg-fresh]")).to_contain_text("As of")
    stopped = [site.arbiter, *site.pids()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        expect(page.locator("[data-wg-fresh]")).to_contain_text("the server does not answer")
        expect(page.locator("body")).to_have_class(re.compile("wg-stale"))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    expect(page.locator("[data-wg-fresh]")).to_contain_text("As of")
    expect(page.locator("body")).not_to_have_class(re.compile("wg-stale"))


def test_who_is_logged_out_is_told_so(site, page):
    log_in(page, site)
    expect(page.locator("[data-wg-fresh]")).to_contain_text("As of")
    page.context.clear_cookies()
    expect(page.locator("[data-wg-fresh]")).to_contain_text("You are logged out")
    page.click("[data-wg-fresh] a")
    expect(page.locator("#id_username")).to_be_visible()


def test_a_slots_page_is_kept_up_to_date(site, page):
    log_in(page, site)
    page.click("text=Slot 2")
    victim = site.slot(2)["pid"]
    expect(page.locator(".wg-facts")).to_contain_text(str(victim))
    os.kill(victim, signal.SIGKILL)
    expect(page.locator(".wg-facts")).not_to_contain_text(str(victim))
    assert page.complaints == []


def test_a_dead_server_is_not_shown_as_a_living_one(site, page):
    log_in(page, site)
    expect(page.locator("[data-wg-fresh]")).to_contain_text("As of")  # the script runs
    site.stop()
    expect(page.locator("[data-wg-fresh]")).to_contain_text("No answer")
    expect(page.locator("body")).to_have_class(re.compile("wg-stale"))
