// Updates the parts of the page. Without this script the page is the same, and says that it does not update itself.
"use strict";
(() => {
  // the page requests this file twice, because a worker may be killed while it sends the first response
  if (window.wgKeepsUpToDate) return;
  window.wgKeepsUpToDate = true;
  const PATIENCE = 8000; // ms until a server that does not answer is reported
  const one = (selector) => document.querySelector(selector);
  const freshness = one("[data-wg-fresh]"), announcement = one("[data-wg-said]");
  const bar = one("#wg-bar"), barText = one("[data-wg-bar]"), help = one("[data-wg-help]");
  const icon = one("[data-wg-icon]"), parts = [...document.querySelectorAll("[data-wg-url]")];
  one("[data-wg-late]")?.remove();

  // a style sheet that did not arrive is requested once more
  const style = one("[data-wg-style]"), unstyled = one(".wg-unstyled");
  if (style && unstyled && getComputedStyle(unstyled).display !== "none") {
    const again = style.cloneNode();
    again.href += "&again=1";
    style.after(again);
  }
  // the admin's frame without the admin's style is unreadable
  const frame = new URL(location.href);
  const isLost = (link) => {
    if (new URL(link.href).origin !== location.origin) return false; // it cannot be looked into
    try { return !link.sheet.cssRules; } catch { return true; }
  };
  if (!document.body.classList.contains("wg-alone") && !frame.searchParams.has("frame")
      && [...document.querySelectorAll("link[rel=stylesheet]")].some((link) => link !== style && isLost(link))) {
    frame.searchParams.set("frame", "own");
    location.replace(frame);
    return;
  }

  const clock = () => `${new Date().toISOString().slice(11, 19)} UTC`;
  let answered = clock(), answeredAt = Date.now(), shownAt = answeredAt, why = "", title = document.title;
  document.addEventListener("visibilitychange", () => { shownAt = Date.now(); });

  const showIcon = (name) => {
    const url = icon?.getAttribute(`data-wg-${name}`);
    if (url && icon.getAttribute("href") !== url) icon.setAttribute("href", url);
  };
  const localTimes = (part) => {
    for (const time of part.querySelectorAll("time")) time.title = new Date(time.dateTime).toLocaleString();
  };
  // what the newest state says of itself: in the tab, in its icon, and to a screen reader
  const tell = (part) => {
    const state = part.querySelector("[data-wg-say]");
    if (!state) return;
    const { wgSay, wgTitle, wgWorst } = state.dataset;
    if (wgTitle) title = `${wgTitle} | workerguard`;
    if (wgWorst) showIcon(wgWorst);
    // a screen reader announces changes of the state, not every second that passes
    if (announcement && announcement.textContent !== wgSay) announcement.textContent = wgSay;
  };

  const put = (part, html) => {
    const toggled = new Map([...part.querySelectorAll("details")].map((each) => [each.id, each.open]));
    const scrolled = [...part.querySelectorAll(".wg-scroll")].map((each) => [each.id, each.scrollLeft]);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    for (const details of part.querySelectorAll("details")) {
      if (toggled.has(details.id)) details.open = toggled.get(details.id);
    }
    for (const [id, left] of scrolled) { const each = document.getElementById(id); if (each) each.scrollLeft = left; }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    localTimes(part);
    tell(part);
  };

  const span = (ms) => {
    const seconds = Math.max(0, Math.round(ms / 1000));
    return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  };
  const say = (text) => { if (freshness) freshness.textContent = text; };
  const fresh = () => {
    answered = clock();
    answeredAt = Date.now();
    why = "";
    say(`As of ${answered}`);
    document.body.classList.remove("wg-stale");
    if (bar) bar.hidden = true;
    document.title = title;
  };
  const stale = (reason, loggedOut) => {
    why = reason;
    document.body.classList.add("wg-stale");
    document.title = `No answer – ${title}`;
    showIcon("old");
    if (announcement) announcement.textContent = "No answer: the page shows old data";
    if (barText && help) {
      help.hidden = loggedOut;
      barText.textContent = loggedOut ? reason : "";
      if (loggedOut) {
        const anchor = document.createElement("a");
        anchor.href = location.href;
        anchor.textContent = "Log in";
        barText.append(" ", anchor);
      }
      bar.hidden = false;
    }
    age(loggedOut);
  };
  const age = (loggedOut) => {
    if (!why) return;
    const since = `${answered}, ${span(Date.now() - answeredAt)} ago`;
    say(`Old data, of ${since}`);
    if (!loggedOut && barText && help && !help.hidden) {
      barText.textContent = `No answer since ${since} (${why}). The page shows old data.`;
    }
  };
  // the bar counts on, and a loop that has ended for whatever reason is reported too
  setInterval(() => {
    if (why) age(false);
    else if (parts.some((part) => !part.wgOver) && !document.hidden
             && Date.now() - Math.max(answeredAt, shownAt) > 4 * PATIENCE) {
      stale("the page has stopped asking", false);
    }
  }, 1000);

  // if `past` is given, one response has both the part and the timeline
  const refresh = async (part, past) => {
    try {
      const query = past ? `?past=${part.dataset.wgWindow}` : "";
      const answer = await fetch(part.dataset.wgUrl + query, {
        credentials: "same-origin", redirect: "manual", signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        stale("You are logged out. The page shows old data.", true);
        return;
      }
      if (!answer.ok) throw new Error(answer.status === 503 ? "no worker is loaded: status 503" : `status ${answer.status}`);
      const [html, timeline] = (await answer.text()).split("<!--past-->");
      if (html) put(part, html);
      if (past && timeline) put(past, timeline);
      part.wgOver = part.querySelector("[data-wg-over]") !== null;
      fresh();
    } catch (error) {
      const reasons = { TimeoutError: "the server does not answer", TypeError: "there is no connection" };
      stale(reasons[error.name] ?? error.message, false);
    }
  };

  const events = () => one("[data-wg-events]")?.dataset.wgEvents;

  for (const part of parts) {
    const past = document.getElementById(part.dataset.wgPast || "");
    const every = Number(part.dataset.wgEvery) * 1000;
    const pastEvery = Number(part.dataset.wgPastEvery) * 1000, soon = Number(part.dataset.wgOnEvents) * 1000;
    let last = Date.now(), pastLast = last, lastEvents = events();
    part.wgOver = part.querySelector("[data-wg-over]") !== null;
    const again = async () => {
      const now = Date.now();
      if (part.wgOver) return;
      if (!document.hidden && Math.abs(now - last) >= every) {
        last = now;
        // fetch the timeline only every `pastEvery` ms, or `soon` after new events
        const due = past && (Math.abs(now - pastLast) >= pastEvery || (now - pastLast >= soon && events() !== lastEvents));
        if (due) {
          pastLast = now;
          lastEvents = events();
        }
        await refresh(part, due ? past : null);
      }
      setTimeout(again, 1000);
    };
    setTimeout(again, 1000);
  }
  localTimes(document);
  if (parts.length) say(`As of ${answered}`);
})();
