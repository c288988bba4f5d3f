// The flow, line by line, the newest first.

import { byId, fill, h, mark } from "./dom.js";
import { STEPS, count, milliseconds, several, time } from "./words.js";

const LINES_MAX = 18;

export function passing(holder) {
  const pause = byId("passing-pause");
  let lines = [];
  let paused = false;

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    draw();
  });

  function draw() {
    if (paused) return;
    if (lines.length === 0) {
      return fill(holder, h("p", { class: "empty" }, "Nothing has passed since this page was opened. A line appears for each message that is pushed, and for what becomes of it."));
    }
    fill(holder, h("ol", { class: "stream" }, lines.map(line)));
  }

  draw();
  return (frame) => {
    const now = Date.now();
    const news = frame.events.map((event) => ({ ...event, at: new Date(now - event.ago_ms) })).reverse();
    const more = (frame.more ?? []).reduce((sum, { count: n }) => sum + n, 0);
    if (more > 0) news.unshift({ more, at: new Date(now) });
    lines = [...news, ...lines].slice(0, LINES_MAX);
    draw();
  };
}

function line(event) {
  if (event.more) return h("li", {}, h("span", {}), h("span", { class: "path none" }, `and ${several(event.more, "more")}`), h("span", { class: "aside" }, time(event.at)));
  const { word, tone } = STEPS[event.step];
  const path = `${event.from ?? "?"} → ${event.to}${event.agent ? ` (${event.agent})` : ""}`;
  const about = [
    event.type,
    event.priority !== undefined && `priority ${event.priority}`,
    event.attempt > 1 && `attempt ${count(event.attempt)}`,
  ].filter(Boolean).join(", ");
  return h(
    "li",
    {},
    mark(event.step, tone),
    h("span", { class: "path", title: `${path}${about && `: ${about}`}` }, h("span", { class: "hidden" }, `${word}: `), path, h("span", { class: "aside" }, ` ${about}`)),
    h("span", { class: "aside" }, event.ms !== undefined ? `${milliseconds(event.ms)} · ` : `${word} · `, time(event.at)),
  );
}
