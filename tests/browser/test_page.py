"""What the dashboard's pages show and say, in a browser, over boards that no arbiter writes."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from django_workerguard.scoreboard.header import Header
from tests.boards import Fleet

pytestmark = pytest.mark.needs("chromium")

SIZES = [(360, 740), (1024, 768), (1920, 1080)]


def troubled(slots):
    fleet = Fleet(slots)
    fleet.back_off(slots - 1)
    fleet.back_off(slots // 2)
    return fleet


def wait_for_refresh(page, path="/tiles/"):
    with page.expect_response(re.compile(path)):
        pass
    page.wait_for_function("() => !document.querySelector('[data-wg-fresh]')?.textContent.startsWith('Old')")


@pytest.mark.parametrize("slots", [1, 8, 64])
def test_nothing_is_wider_than_the_screen_and_the_worst_is_on_the_first(board_site, page, slots):
    board_site.show(troubled(slots) if slots > 1 else Fleet(1, name="مخزن 店 \u202eshop", minutes=2))
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        page.goto(board_site.url)
        count = page.locator(".wg-count")
        expect(count).to_have_text(f"{slots - 2 if slots > 1 else 1} of {slots} ready")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = (
            "[...document.querySelectorAll('.wg *')].map((one) => parseFloat(getComputedStyle(one).fontSize))"
        )
        size_of_count = count.evaluate("(one) => parseFloat(getComputedStyle(one).fontSize)")
        assert size_of_count == max(page.evaluate(sizes)), "the most important is the largest"
        parts = "[...document.querySelectorAll('.wg-headline, .wg-findings, .wg-numbers, .wg-tile')]"
        tops = page.evaluate(f"{parts}.map((one) => one.offsetTop)")
        assert tops == sorted(tops), "and comes first"
        if slots > 1:
            expect(page.locator(".wg-findings > li")).to_have_count(1)
            alike = f"slots {slots // 2}, {slots - 1}: cannot load"
            expect(page.locator(".wg-findings > li")).to_contain_text(alike)
            expect(page.locator(".wg-tile").first).to_contain_text("shop/cards/views.py, line 3")
        if width > 1000:
            bottoms = page.evaluate(f"{parts}.map((one) => one.getBoundingClientRect().bottom)")
            assert max(bottoms) <= height, "every slot is on the first screen"
    assert page.complaints == []


def test_the_tab_carries_the_state(board_site, page):
    fleet = board_site.show(Fleet(3))
    page.goto(board_site.url)
    expect(page).to_have_title("3/3 ready – shop | workerguard")
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("well.svg"))
    fleet.back_off(2)
    expect(page).to_have_title("2/3 ready – shop | workerguard")
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("warning.svg"))
    assert page.complaints == []


def test_a_server_without_an_answer_is_said_so_until_it_answers(board_site, page):
    board_site.show(Fleet(3), monitor_bind="127.0.0.1:9000")
    page.goto(board_site.url)
    expect(page.locator("#wg-bar")).to_be_hidden()
    board_site.stop()
    bar = page.get_by_role("alert")
    expect(bar).to_contain_text(re.compile(r"No answer since \d\d:\d\d:\d\d UTC, \d+ s ago"))
    expect(bar).to_contain_text("there is no connection")
    expect(bar).to_contain_text("workerguard status")
    expect(bar).to_contain_text("The monitor answers at 127.0.0.1:9000")
    expect(page).to_have_title(re.compile("^No answer"))
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("old.svg"))
    assert (
        page.locator(".wg-count").evaluate("(one) => getComputedStyle(one, '::before').content") == '"Old: "'
    )
    assert page.locator(".wg-now").evaluate("(one) => getComputedStyle(one).filter") == "grayscale(1)"
    expect(page.locator(".wg-sign").first).not_to_be_visible()
    line = "(one) => getComputedStyle(one).textDecorationLine"
    assert page.locator(".wg-state").first.evaluate(line) == "line-through", (
        "what was ready does not look ready"
    )
    board_site.start()
    expect(bar).to_be_hidden()
    expect(page).to_have_title("3/3 ready – shop | workerguard")
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("well.svg"))


def test_a_refresh_that_hangs_is_said_so(board_site, page):
    board_site.show(Fleet(3))
    page.goto(board_site.url)
    board_site.answers.clear()
    expect(page.get_by_role("alert")).to_contain_text("the server does not answer")
    board_site.answers.set()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_state_that_nothing_replaces_says_that_it_is_old_by_itself(board_site, page):
    """The style sheet says it: no script has to run any more."""
    board_site.show(Fleet(3))
    page.goto(board_site.url)
    old = page.locator(".wg-old")
    expect(old).not_to_be_visible()
    page.evaluate("document.getAnimations().forEach((one) => { one.currentTime = 41_000; })")
    expect(old).to_be_visible()


@pytest.mark.parametrize("enabled", [True, False], ids=["lost", "off"])
def test_a_page_whose_script_does_not_run_says_so(board_site, browser, enabled):
    board_site.show(Fleet(3))
    page = browser.new_context(java_script_enabled=enabled).new_page()
    page.route(re.compile(r"dashboard\.js"), lambda route: route.abort())
    page.goto(board_site.url)
    expect(page.locator("[data-wg-late]")).to_be_visible()
    expect(page.locator("[data-wg-late]")).to_contain_text("does not update itself")
    page.click("[data-wg-late] a")
    expect(page.locator(".wg-count")).to_contain_text("3 of 3 ready")
    page.context.close()


def test_a_script_that_does_not_arrive_is_asked_for_again(board_site, page):
    """A worker may be killed while it sends it."""
    board_site.show(Fleet(3))
    page.route(re.compile(r"dashboard\.js\?v=\w+$"), lambda route: route.abort())
    page.goto(board_site.url)
    expect(page.locator("[data-wg-late]")).to_have_count(0)


def test_a_style_sheet_that_does_not_arrive_is_asked_for_again_and_missed(board_site, page):
    board_site.show(troubled(8))
    page.route(re.compile(r"dashboard\.css"), lambda route: route.abort())
    page.goto(board_site.url)
    expect(page.locator(".wg-unstyled")).to_be_visible()
    biggest = (
        "Math.max(...[...document.querySelectorAll('svg')].map((one) => one.getBoundingClientRect().width))"
    )
    assert page.evaluate(biggest) <= 1000, "no drawing fills the screen"
    page.unroute(re.compile(r"dashboard\.css"))
    page.route(re.compile(r"dashboard\.css\?v=\w+$"), lambda route: route.abort())
    page.goto(board_site.url)
    expect(page.locator(".wg-unstyled")).to_be_hidden()


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
COLOURED = {
    "": (
        *(".wg-count", ".wg-name", ".wg-quiet", ".wg-findings a", ".wg-findings strong", ".wg-numbers dt"),
        *(".wg-bad b", ".wg-tile h3 a", ".wg-tile dd", ".wg-tile dt", ".wg-state", ".wg-why", ".wg-badge"),
        *(
            ".wg-ready .wg-sign",
            ".wg-button",
            ".wg-crumbs",
            ".wg-names text",
            ".wg-happened time",
            ".wg-zoom a",
        ),
    ),
    "slot/2/": ("pre", "mark", ".wg-facts dt", ".wg-waterfall text"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_contrast(board_site, browser, scheme):
    fleet = board_site.show(Fleet(4))
    fleet.back_off(2)
    fleet.errors(3, 17)
    page = browser.new_context(color_scheme=scheme).new_page()
    for path, selectors in COLOURED.items():
        page.goto(board_site.url + path)
        for selector in selectors:
            assert page.evaluate(CONTRAST, selector) >= 4.5, (scheme, selector)
    page.context.close()


def test_the_keyboard_reaches_everything_and_the_focus_stays(board_site, page):
    fleet = board_site.show(Fleet(3))
    fleet.back_off(1)
    page.goto(board_site.url)
    reached = []
    for _ in range(15):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
    first = ["Skip to the content", "Administration", "Reload…", "The timeline", "wg-finding-load-failing-1"]
    assert reached[:5] == first
    assert {"wg-slot-1", "wg-slot-2", "wg-slot-3", "10 minutes", "wg-scroll"} <= set(reached)
    page.focus("#wg-slot-2")
    outline = page.locator("#wg-slot-2").evaluate("(one) => getComputedStyle(one).outlineStyle")
    assert outline == "solid"
    wait_for_refresh(page)
    assert page.evaluate("document.activeElement.id") == "wg-slot-2"
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("Slot 2")


WATCH = """(selector) => {
  window.wgChanges = 0;
  new MutationObserver(() => window.wgChanges++)
    .observe(document.querySelector(selector), {childList: true, characterData: true, subtree: true});
}"""


def test_a_screen_reader_is_told_names_and_changes_of_the_state(board_site, page):
    fleet = board_site.show(Fleet(3))
    page.goto(board_site.url)
    expect(page.locator("[data-wg-said]")).to_contain_text("3 of 3 ready")
    page.evaluate(WATCH, ".wg-said[role=status]")
    wait_for_refresh(page)
    assert page.evaluate("window.wgChanges") == 0, "a screen reader is told nothing while nothing has changed"
    fleet.back_off(2)
    expect(page.locator("[data-wg-said]")).to_contain_text("2 of 3 ready, serving; warning: load-failing")
    page.click("#wg-latest-lives summary")
    assert page.locator("#wg-latest-lives th:not([scope=col])").count() == 0
    assert page.locator("#wg-latest-lives th:empty").count() == 0
    expect(page.locator("#wg-latest-lives caption")).to_be_visible()
    for role, name in (("link", "Slot 1"), ("region", "The workers now"), ("navigation", "Breadcrumbs")):
        expect(page.get_by_role(role, name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("life of every slot"))).to_be_visible()
    expect(page.get_by_role("img", name="Requests in the last hour").first).to_be_visible()
    expect(page.get_by_role("heading", name="Slot 2 needs attention")).to_be_visible()


def test_a_small_tile_says_in_words_what_its_sign_means(board_site, page):
    fleet = board_site.show(Fleet(64))
    fleet.back_off(7)
    page.goto(board_site.url)
    expect(
        page.get_by_role("link", name=re.compile("Slot 9: ready, .* p95 44 ms, 0 in hand, 63 MB"))
    ).to_be_visible()


@pytest.mark.browser_context(viewport={"width": 360, "height": 700})
def test_the_timeline_opens_at_its_newest_end_with_the_names_in_sight(board_site, page):
    board_site.show(troubled(8))
    page.goto(board_site.url)
    place = "(one) => { const {left, right} = one.getBoundingClientRect(); return [left, right]; }"
    region = page.locator("#wg-scroll").evaluate(place)
    assert abs(page.locator(".wg-lives").evaluate(place)[1] - region[1]) < 2
    assert page.locator(".wg-names").evaluate(place)[0] >= region[0]
    heights = (
        "Array.from(document.querySelectorAll('.wg-names > text'), one => one.getBoundingClientRect().height)"
    )
    assert min(page.evaluate(heights)) >= 7


@pytest.mark.browser_context(viewport={"width": 360, "height": 700})
def test_a_refresh_moves_nothing_that_the_viewer_has_moved_or_opened(board_site, page):
    fleet = board_site.show(troubled(8))
    page.goto(f"{board_site.url}?window=60")
    page.evaluate("document.getElementById('wg-scroll').scrollLeft = -100")
    page.click("#wg-latest-lives summary")
    fleet.event("reload-refused", fleet.now, reason="to be seen when the timeline was fetched", by="ann")
    expect(page.locator(".wg-happened")).to_contain_text("to be seen when the timeline was fetched")
    assert page.evaluate("document.getElementById('wg-scroll').scrollLeft") == -100
    expect(page.locator("#wg-latest-lives table")).to_be_visible()


@pytest.mark.parametrize(("window", "label"), [(3600, "1 hour"), (600, "10 minutes"), (60, "1 minute")])
def test_the_timeline_can_be_zoomed(board_site, page, window, label):
    board_site.show(Fleet(3))
    page.goto(board_site.url)
    page.click(f".wg-zoom >> text={label}")
    expect(page.locator(".wg-zoom [aria-current]")).to_have_text(label)
    shown = page.locator(".wg-lives > svg").get_attribute("viewBox").split()
    assert float(shown[2]) == window
    labels = page.locator(".wg-lives .wg-hour").all_inner_texts()
    assert 3 <= len(labels) <= 8
    if window == 60:
        with page.expect_response(re.compile("past=60")) as response:
            pass
        assert response.value.ok


def test_an_event_is_a_sentence_and_its_raw_form_a_click_away(board_site, page):
    fleet = board_site.show(Fleet(3))
    fleet.back_off(2)
    page.goto(board_site.url)
    event = page.locator(
        ".wg-happened li", has_text="could not load in step urlconf: ModuleNotFoundError"
    ).first
    raw = event.locator("code")
    expect(raw).to_be_hidden()
    event.locator("summary").click()
    expect(raw).to_contain_text("load-failed")
    expect(raw).to_contain_text("slot=2")


def test_the_frames_of_the_project_are_marked(board_site, page):
    fleet = board_site.show(Fleet(3))
    fleet.back_off(2)
    page.goto(f"{board_site.url}slot/2/")
    expect(page.locator("#wg-traceback pre")).to_be_visible()
    marked = page.locator("#wg-traceback mark").all_inner_texts()
    assert [re.search('File "(.*?)"', text)[1] for text in marked] == [
        "/srv/shop/shop/urls.py",
        "/srv/shop/shop/cards/views.py",
    ]
    assert page.complaints == []


@pytest.mark.browser_context(reduced_motion="reduce")
def test_nothing_moves_and_nothing_of_use_is_lost_in_print(board_site, page):
    board_site.show(troubled(8))
    page.goto(board_site.url)
    durations = "document.getAnimations().map((one) => one.effect.getTiming().duration)"
    assert set(page.evaluate(durations)) <= {0}
    page.emulate_media(media="print")
    expect(page.locator(".wg-button")).to_be_hidden()
    expect(page.locator(".wg-findings")).to_be_visible()
    expect(page.locator(".wg-tile").last).to_be_visible()
    assert page.pdf(format="A4")[:5] == b"%PDF-"


def test_a_board_that_a_newer_version_writes_is_shown_as_far_as_it_is_known(board_site, page):
    fleet = board_site.show(Fleet(3))
    words = fleet.board.words
    words[fleet.slot(2)] = 40  # a state
    words[Header.PHASE], words[Header.LOAD] = 30, 9
    fleet.event("teleported", fleet.now, slot=2, pid=3)
    page.goto(board_site.url)
    expect(page.locator(".wg-tile").first).to_contain_text("unknown")
    expect(page.locator(".wg-happened li").first).to_contain_text("teleported")
    assert page.complaints == []


@pytest.mark.parametrize("hours", [-30, 30], ids=["back", "forth"])
def test_a_clock_that_jumped(board_site, page, hours):
    """The server was started, and its samples were taken, under another time of the day."""
    fleet = Fleet(3)
    board_site.show(Fleet(3, now=fleet.now + 3600 * hours))
    page.goto(board_site.url)
    expect(page.locator(".wg-count")).to_have_text("3 of 3 ready")
    expect(page.locator(".wg-spark").first).to_be_visible()
    assert "nan" not in page.content().lower()
    assert page.complaints == []
