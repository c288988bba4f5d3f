// Every agent in a list, like the picture, for people who would rather read or search.

import { byId, fill, h, mark } from "./dom.js";
import { STANDINGS, count, seconds } from "./words.js";

/** Rows that are shown at first. */
const FIRST = 12;

export function agents(holder) {
  const filter = byId("agents-filter");
  let mesh = null;
  let all = false;

  function draw() {
    if (!mesh) return;
    const wanted = filter.value.trim().toLowerCase();
    const found = mesh.agents.filter((a) => `${a.agent} ${a.environment} ${a.type} ${STANDINGS[a.standing].word}`.toLowerCase().includes(wanted));
    const shown = all ? found : found.slice(0, FIRST);
    if (mesh.agents.length === 0) return fill(holder, h("p", { class: "empty" }, "None is registered yet. The picture above says how."));
    if (found.length === 0) return fill(holder, h("p", { class: "empty" }, `No agent's name, environment, type or state has “${filter.value.trim()}” in it.`));
    fill(
      holder,
      h("div", { class: "scroll" }, h("table", {}, head(), h("tbody", {}, shown.map(row)))),
      shown.length < found.length && h("button", { type: "button", class: "quiet more", "data-key": "all agents", onclick: () => { all = true; draw(); } }, `Show all ${count(found.length)}`),
      mesh.agents_left_out > 0 && h("p", { class: "aside more" }, `${count(mesh.agents_left_out)} more, of those with the least trouble, are counted and not listed: \`postbell agent list\` has them all.`),
    );
  }

  filter.addEventListener("input", draw);
  return (next) => {
    mesh = next;
    draw();
  };
}

const head = () => h("thead", {}, h("tr", {},
  h("th", { scope: "col" }, "Agent"),
  h("th", { scope: "col" }, "State"),
  h("th", { scope: "col", class: "wide" }, "Environment"),
  h("th", { scope: "col", class: "num" }, "Waiting"),
  h("th", { scope: "col", class: "num wide" }, "In flight"),
  h("th", { scope: "col", class: "num" }, "Dead"),
  h("th", { scope: "col", class: "num wide" }, "Seen")));

function row(agent) {
  const { word, tone } = STANDINGS[agent.standing];
  const hot = agent.standing === "late" || agent.standing === "stranded";
  return h(
    "tr",
    {},
    h("td", { class: "name" }, h("a", { href: `#agent/${encodeURIComponent(agent.agent)}`, "data-key": `row ${agent.agent}` }, agent.agent)),
    h("td", { class: "tight" }, mark(agent.standing, tone), ` ${word}`),
    h("td", { class: "wide" }, agent.environment),
    h("td", { class: hot ? "num hot" : agent.waiting ? "num" : "num none" }, count(agent.waiting), agent.oldest_seconds !== undefined && h("span", { class: "aside" }, ` ${seconds(agent.oldest_seconds)}`)),
    h("td", { class: "num wide none" }, agent.in_flight === undefined ? "–" : count(agent.in_flight)),
    h("td", { class: agent.dead ? "num hot" : "num none" }, count(agent.dead)),
    h("td", { class: "num wide none" }, agent.seen_seconds === undefined ? "never" : agent.seen_seconds < 20 ? "now" : `${seconds(agent.seen_seconds)} ago`),
  );
}
