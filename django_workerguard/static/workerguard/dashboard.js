// Fetches the parts of the page anew. Without it the page is the same, and reloads itself.
"use strict";
(() => {
  const fresh = document.querySelector("[data-wg-fresh]");
  const say = (text) => { if (fresh) fresh.textContent = text; };

  const put = (part, html) => {
    const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    part.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  const refresh = async (part) => {
    if (document.hidden) return;
    try {
      const answer = await fetch(part.dataset.wgUrl, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const html = await answer.text();
      if (html && html !== part.wgShown) put(part, html);
      part.wgShown = html;
      say(`As of ${new Date().toLocaleTimeString()}`);
      document.body.classList.remove("wg-stale");
    } catch (error) {
      say(`No answer since; what is shown is old (${error.message})`);
      document.body.classList.add("wg-stale");
    }
  };

  const events = () => document.querySelector("[data-wg-events]")?.dataset.wgEvents;

  for (const part of document.querySelectorAll("[data-wg-url]")) {
    const every = Number(part.dataset.wgEvery) * 1000;
    let shown = events(), last = Date.now();
    const again = async () => {
      // what shows the past need only be asked for when something has happened
      if (Date.now() - last >= every || ("wgOnEvents" in part.dataset && events() !== shown)) {
        shown = events();
        last = Date.now();
        await refresh(part);
      }
      setTimeout(again, 1000);
    };
    setTimeout(again, 1000);
  }
})();
