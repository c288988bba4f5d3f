// The summary that an operator should read first: one sentence, the findings, and six numbers.

import { byId, fill, h, mark } from "./dom.js";
import { count, milliseconds, percent, seconds } from "./words.js";

const TONES = { ok: "ok", watch: "late", bad: "bad" };
const MARKS = { watch: "late", bad: "stranded" };

export function verdict(mesh) {
  const { level, sentence, findings } = mesh.verdict;
  byId("verdict").setAttribute("data-level", level);
  byId("verdict-sentence").textContent = sentence;
  fill(byId("findings"), findings.map((finding) => h(
    "li",
    { class: "finding", "data-level": finding.level },
    mark(MARKS[finding.level], TONES[finding.level]),
    h("span", {}, finding.sentence),
    finding.about && h("a", { href: where(finding.about), "data-key": `finding ${finding.about}` }, "Look", h("span", { class: "hidden" }, ` at ${finding.about.replace("agent/", "")}`)),
  )));
  fill(byId("facts"), facts(mesh).map(([name, value, unit, hot]) => h(
    "div",
    {},
    h("dt", {}, name),
    h("dd", { class: hot ? "hot" : null }, value, unit && h("small", {}, ` ${unit}`)),
  )));
}

/** The hash that opens the subject of a finding. */
function where(about) {
  return about.startsWith("agent/") ? `#agent/${encodeURIComponent(about.slice(6))}` : `#${about}-panel`;
}

function facts(mesh) {
  const { delivery, depth, environments, broker } = mesh;
  const sum = (key) => environments.reduce((all, environment) => all + environment[key], 0);
  const here = sum("ok") + sum("late") + sum("error");
  const ready = depth.reduce((all, row) => all + row.ready, 0);
  const oldest = Math.max(...depth.map((row) => row.oldest_seconds ?? -1));
  return [
    ["agents online", count(here), `of ${count(sum("agents"))}`],
    ["delivered in the last hour", count(delivery.count), ""],
    ["99 % of them within", delivery.p99_ms === undefined ? "–" : milliseconds(delivery.p99_ms), ""],
    [`within ${delivery.target_ms / 1000} s`, percent(delivery.within_target, delivery.count), ""],
    ["waiting", count(ready), oldest >= 0 ? `oldest ${seconds(oldest)}` : "", oldest * 1000 > delivery.target_ms && ready > broker.in_flight],
    ["in flight", count(broker.in_flight), ""],
    ["dead letters", count(mesh.dead), "", mesh.dead > 0],
  ];
}
