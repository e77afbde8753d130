// Ask twice a second which worker answers, and show each answer as a square in its slot's colour.
"use strict";

const KEPT = 60;
const strip = document.querySelector("[data-watch]");
const tally = document.querySelector(".tally");
const counts = { answered: 0, failed: 0 };

function hue(worker) {
  return ((worker.slot ?? worker.pid) * 137) % 360;
}

function show(worker, problem) {
  const square = document.createElement("li");
  if (worker) {
    square.style.setProperty("--hue", hue(worker));
    square.textContent = worker.slot ?? "";
    square.title = worker.guarded ? `slot ${worker.slot}, pid ${worker.pid}` : `pid ${worker.pid}`;
  } else {
    square.className = "failed";
    square.textContent = "×";
    square.title = problem;
  }
  strip.append(square);
  while (strip.children.length > KEPT) strip.firstElementChild.remove();
  counts[worker ? "answered" : "failed"] += 1;
  tally.textContent = `${square.title} · ${counts.answered} answered, ${counts.failed} failed since this page was opened`;
}

async function ask() {
  try {
    const response = await fetch(strip.dataset.watch, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (response.ok) show(await response.json());
    else show(null, `status ${response.status}`);
  } catch (error) {
    show(null, error.name === "TimeoutError" ? "no answer in 10 s" : "no connection");
  }
  setTimeout(ask, 500);
}

ask();
