// Fetches the parts of the page anew. Without it the page is the same, and has a link to load it again.
"use strict";
(() => {
  // the page asks for this file twice: a worker that is killed while it sends the first must not leave the page old
  if (window.wgKeepsUpToDate) return;
  window.wgKeepsUpToDate = true;
  const PATIENCE = 8000; // ms: a server that does not answer must not look like one that has nothing to say
  const fresh = document.querySelector("[data-wg-fresh]");
  const said = document.querySelector("[data-wg-said]");

  const say = (text, link) => {
    if (!fresh) return;
    fresh.textContent = text;
    if (!link) return;
    const anchor = document.createElement("a");
    anchor.href = location.href;
    anchor.textContent = link;
    fresh.append(" ", anchor);
  };

  const put = (part, html) => {
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    const scrolled = [...part.querySelectorAll(".wg-scroll")].map((one) => [one.id, one.scrollLeft]);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, left] of scrolled) { const one = document.getElementById(id); if (one) one.scrollLeft = left; }
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    // a screen reader is told of what has changed, and not of every second that has passed
    const now = part.querySelector("[data-wg-say]")?.dataset.wgSay;
    if (said && now !== undefined && said.textContent !== now) said.textContent = now;
  };

  const clock = () => `${new Date().toISOString().slice(11, 19)} UTC`;
  let answered = clock();
  say(`As of ${answered}`); // in place of what the page says where this script does not run

  const stale = (text, link) => {
    say(text, link);
    document.body.classList.add("wg-stale");
  };

  // `hour` comes with the part, in one answer, when it is wanted
  const refresh = async (part, hour) => {
    try {
      const answer = await fetch(part.dataset.wgUrl + (hour ? "?hour=1" : ""), {
        credentials: "same-origin", redirect: "manual", signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        stale("You are logged out; what is shown is old.", "Log in");
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
      const why = error.name === "TimeoutError" ? "it does not answer" : error.message;
      stale(`No answer since ${answered}; what is shown is old (${why})`);
    }
  };

  const events = () => document.querySelector("[data-wg-events]")?.dataset.wgEvents;

  for (const part of document.querySelectorAll("[data-wg-url]")) {
    const hour = document.getElementById(part.dataset.wgHour || "");
    const every = Number(part.dataset.wgEvery) * 1000;
    const hourly = Number(part.dataset.wgHourEvery) * 1000, soon = Number(part.dataset.wgOnEvents) * 1000;
    let last = Date.now(), past = last, shown = events();
    const again = async () => {
      const now = Date.now();
      if (!document.hidden && now - last >= every) {
        last = now;
        // what shows the past need only be asked for when something has happened, and not for each thing that does
        const due = hour && (now - past >= hourly || (now - past >= soon && events() !== shown));
        if (due) {
          past = now;
          shown = events();
        }
        await refresh(part, due ? hour : null);
      }
      setTimeout(again, 1000);
    };
    setTimeout(again, 1000);
  }
})();
