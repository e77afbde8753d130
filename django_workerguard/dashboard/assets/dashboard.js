// Updates the parts of the page. Without this script the page is the same, with a link to reload it.
"use strict";
(() => {
  // the page requests this file twice, because a worker may be killed while it sends the first response
  if (window.wgKeepsUpToDate) return;
  window.wgKeepsUpToDate = true;
  const PATIENCE = 8000; // ms until a server that does not answer is reported
  const freshness = document.querySelector("[data-wg-fresh]");
  const announcement = document.querySelector("[data-wg-said]");

  const say = (text, link) => {
    if (!freshness) return;
    freshness.textContent = text;
    if (!link) return;
    const anchor = document.createElement("a");
    anchor.href = location.href;
    anchor.textContent = link;
    freshness.append(" ", anchor);
  };

  const put = (part, html) => {
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    const scrolled = [...part.querySelectorAll(".wg-scroll")].map((one) => [one.id, one.scrollLeft]);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, left] of scrolled) { const one = document.getElementById(id); if (one) one.scrollLeft = left; }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    // a screen reader announces changes of the state, not every second that passes
    const now = part.querySelector("[data-wg-say]")?.dataset.wgSay;
    if (announcement && now !== undefined && announcement.textContent !== now) announcement.textContent = now;
  };

  const clock = () => `${new Date().toISOString().slice(11, 19)} UTC`;
  let answered = clock();
  say(`As of ${answered}`); // replaces the text for a page without this script

  const stale = (text, link) => {
    say(text, link);
    document.body.classList.add("wg-stale");
  };

  // if `hour` is given, one response has both the part and the last hour
  const refresh = async (part, hour) => {
    try {
      const answer = await fetch(part.dataset.wgUrl + (hour ? "?hour=1" : ""), {
        credentials: "same-origin", redirect: "manual", signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        stale("You are logged out. The page shows old data.", "Log in");
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const [html, past] = (await answer.text()).split("<!--hour-->");
      if (html && html !== part.wgShown) put(part, html);
      part.wgShown = html;
      if (hour && past) put(hour, past);
      answered = clock();
      say(`As of ${answered}`);
      document.body.classList.remove("wg-stale");
    } catch (error) {
      const why = error.name === "TimeoutError" ? "the server does not answer" : error.message;
      stale(`No answer since ${answered} (${why}). The page shows old data.`);
    }
  };

  const events = () => document.querySelector("[data-wg-events]")?.dataset.wgEvents;

  for (const part of document.querySelectorAll("[data-wg-url]")) {
    const hour = document.getElementById(part.dataset.wgHour || "");
    const every = Number(part.dataset.wgEvery) * 1000;
    const hourly = Number(part.dataset.wgHourEvery) * 1000, soon = Number(part.dataset.wgOnEvents) * 1000;
    let last = Date.now(), past = last, lastEvents = events();
    const again = async () => {
      const now = Date.now();
      if (!document.hidden && now - last >= every) {
        last = now;
        // fetch the past only every `hourly` seconds, or `soon` after new events
        const due = hour && (now - past >= hourly || (now - past >= soon && events() !== lastEvents));
        if (due) {
          past = now;
          lastEvents = events();
        }
        await refresh(part, due ? hour : null);
      }
      setTimeout(again, 1000);
    };
    setTimeout(again, 1000);
  }
})();
