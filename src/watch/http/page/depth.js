// The ready deliveries by priority, with the age of the oldest.

import { byId, fill, h, mark } from "./dom.js";
import { count, seconds, several } from "./words.js";

export function depth(holder, mesh) {
  const most = Math.max(1, ...mesh.depth.map((row) => row.ready));
  const target = mesh.delivery.target_ms / 1000;
  byId("depth-aside").textContent = mesh.scheduled > 0
    ? `and ${several(mesh.scheduled, "delivery waits for its time", "deliveries wait for their time")}`
    : "with those in flight";
  fill(
    holder,
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Priority"), h("th", { scope: "col" }, h("span", { class: "hidden" }, "Share")), h("th", { scope: "col", class: "num" }, "Ready"), h("th", { scope: "col", class: "num" }, "Oldest"))),
      h("tbody", {}, mesh.depth.map((row) => line(row, most, target))),
    ),
    mesh.groups.length > 0 && groups(mesh.groups),
    mesh.unknown.length > 0 && unknown(mesh.unknown),
  );
}

function line({ priority, ready, oldest_seconds: oldest }, most, target) {
  const late = oldest !== undefined && oldest > target;
  const bar = h("div", { class: "bar-fill", "data-late": late });
  // Set by script: a style attribute would be inline, which the page's policy forbids.
  bar.style.width = `${(ready / most) * 100}%`;
  const word = { 1: "highest", 10: "lowest" }[priority];
  return h(
    "tr",
    { class: "depth-row" },
    h("td", { class: "tight" }, String(priority), word && h("span", { class: "aside" }, ` ${word}`)),
    h("td", {}, h("div", { class: "bar-track" }, ready > 0 && bar)),
    h("td", { class: ready > 0 ? "num" : "num none" }, count(ready)),
    h("td", { class: late ? "num hot" : "num none" }, oldest === undefined ? "–" : [late && mark("late", "bad"), late && " ", seconds(oldest)].filter(Boolean)),
  );
}

function groups(all) {
  return h(
    "div",
    { class: "empty more" },
    h("p", {}, h("strong", {}, "For groups: "), all.map((g) => `${g.group} (${count(g.waiting)}${g.taken ? "" : ", nobody takes from it"})`).join(", "), "."),
  );
}

function unknown(inboxes) {
  return h(
    "div",
    { class: "empty more" },
    h("p", {}, h("strong", {}, "For names that no agent has: "), inboxes.map((i) => `${i.inbox} (${count(i.waiting)})`).join(", "), ". They wait until an agent of that name is registered."),
  );
}
