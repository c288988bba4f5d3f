// The mesh as a picture, from the places of layout.js. Drawn anew when something changed; messages move above it (motion.js).

import { layout, middle } from "./layout.js";
import { motion } from "./motion.js";
import { h, mark, s, shape, fill } from "./dom.js";
import { STANDINGS, count, several, short } from "./words.js";

/** The width of a character, by which names are cut to fit a chip. */
const CHARACTER = 7.4;

const measure = document.createElement("canvas").getContext("2d");

export function picture(holder, key) {
  const still = s("g");
  const moving = s("g", { "aria-hidden": "true" });
  // Drawn above moving messages, so that a message goes into the bell and comes out again.
  const bell = s("g", { "aria-hidden": "true" });
  const svg = s("svg", { role: "group", "aria-label": "The agents by environment, around the broker" }, still, moving, bell);
  const movement = motion(moving, svg);
  let mesh = null;
  let drawn = "";

  fill(key, Object.entries(STANDINGS).map(([standing, { word, tone, means }]) =>
    h("li", { title: means }, mark(standing, tone), word)));

  function draw(force = false) {
    if (!mesh) return;
    if (mesh.environments.length === 0) {
      drawn = "";
      fill(holder, empty());
      return;
    }
    const width = Math.floor(holder.clientWidth);
    // Only the data that is drawn: ages change each second and are not in the picture.
    const seen = JSON.stringify([
      width,
      mesh.environments,
      mesh.agents.map((a) => [a.agent, a.environment, a.standing, a.waiting, a.dead]),
      mesh.flow.length,
    ]);
    if (width === 0 || (seen === drawn && !force)) return;
    drawn = seen;
    if (svg.parentNode !== holder) fill(holder, svg);
    const places = layout(mesh, width);
    svg.setAttribute("viewBox", `0 0 ${places.width} ${places.height}`);
    svg.setAttribute("height", places.height);
    measure.font = `13px ${getComputedStyle(document.body).fontFamily}`;
    fill(still, wires(places, mesh), places.groups.map(group));
    fill(bell, hub(places, mesh));
    movement.places(index(places), new Map(mesh.agents.map((agent) => [agent.agent, agent.environment])));
  }

  new ResizeObserver(() => draw()).observe(holder);
  svg.addEventListener("keydown", (event) => step(event, svg));

  return {
    show(next) {
      mesh = next;
      draw();
    },
    passed: (frame) => movement.passed(frame),
  };
}

/** The place of each agent, from and to which messages move. An agent that is not drawn has its environment's box. */
function index(places) {
  const agents = new Map();
  const boxes = new Map();
  for (const box of places.groups) {
    boxes.set(box.environment.environment, { ...middle(box), y: box.shares ? box.shares.y + 7 : box.y + box.height / 2 });
    // The place of a chip is its mark, so that an arriving message does not run over the name.
    for (const node of box.nodes) agents.set(node.agent.agent, node.kind === "chip" ? { x: node.x + 17, y: node.y + 17 } : middle(node));
  }
  return { agents, boxes, hub: places.hub, narrow: places.narrow };
}

function wires(places, mesh) {
  const environmentOf = new Map(mesh.agents.map((agent) => [agent.agent, agent.environment]));
  const flow = new Map();
  for (const edge of mesh.flow) {
    for (const end of [environmentOf.get(edge.from), environmentOf.get(edge.to)]) {
      if (end) flow.set(end, (flow.get(end) ?? 0) + edge.messages);
    }
  }
  return places.groups.map((box) => {
    const busy = flow.get(box.environment.environment) ?? 0;
    const { hub } = places;
    const d = places.narrow
      ? `M${hub.x} ${hub.y}V${box.port.y}`
      : `M${hub.x} ${hub.y}C${(hub.x + box.port.x) / 2} ${hub.y} ${(hub.x + box.port.x) / 2} ${box.port.y} ${box.port.x} ${box.port.y}`;
    return s("path", { class: "wire", d, "stroke-width": Math.min(1 + Math.log10(1 + busy) * 1.4, 6), "data-busy": busy > 0 });
  });
}

function hub({ hub }, mesh) {
  const scale = hub.r / 30;
  const others = mesh.brokers.filter((broker) => broker.alive).length - 1;
  return s(
    "g",
    {},
    s("circle", { class: "hub-ring", cx: hub.x, cy: hub.y, r: hub.r }),
    s(
      "g",
      { class: "hub-bell", transform: `translate(${hub.x - 16 * scale} ${hub.y - 16 * scale}) scale(${scale})` },
      s("circle", { cx: 16, cy: 8.4, r: 2 }),
      s("path", { d: "M7 21.5a9 9 0 0 1 18 0z" }),
      s("rect", { x: 5.8, y: 23, width: 20.4, height: 2.6, rx: 1.3 }),
    ),
    others > 0 && s("text", { class: "hub-word", x: hub.x, y: hub.y + hub.r + 16 }, `+ ${several(others, "broker")}`),
  );
}

function group(box) {
  const { environment } = box;
  const away = environment.offline + environment.stranded + environment.disabled;
  const says = `${count(environment.agents - away)} of ${count(environment.agents)} online`;
  const room = Math.floor((box.width - 2 * 14 - fits(says)) / CHARACTER) - 2;
  return s(
    "g",
    { role: "group", "aria-label": `Environment ${environment.environment}: ${says}` },
    s("rect", { class: "group-box", x: box.x + 0.5, y: box.y + 0.5, width: box.width - 1, height: box.height - 1, rx: 10 }),
    s("text", { class: "group-name", x: box.x + 14, y: box.y + 28 }, short(environment.environment, Math.max(room, 8))),
    s("text", { class: "group-count", x: box.x + box.width - 14, y: box.y + 28, "text-anchor": "end" }, says),
    box.shares && shares(box.shares),
    box.nodes.map((node, position) => (node.kind === "chip" ? chip(node, position) : dot(node, position))),
  );
}

function node(place, position, ...children) {
  const { agent } = place;
  const { word, tone } = STANDINGS[agent.standing];
  const says = [
    `${agent.agent}: ${word}`,
    agent.waiting > 0 && several(agent.waiting, "waits", "wait"),
    agent.dead > 0 && several(agent.dead, "dead letter"),
  ].filter(Boolean).join(", ");
  return s(
    "a",
    {
      class: "node",
      href: `#agent/${encodeURIComponent(agent.agent)}`,
      "data-key": agent.agent,
      "data-tone": tone,
      // The Tab key stops once in each environment; the arrow keys go on from there.
      tabindex: position === 0 ? 0 : -1,
    },
    s("title", {}, says),
    children,
  );
}

function chip(place, position) {
  const { agent, x, y, width, height } = place;
  const waiting = agent.waiting > 0 ? count(agent.waiting) : "";
  const dead = agent.dead > 0 ? ` ✕${count(agent.dead)}` : "";
  const right = waiting + dead ? fits(waiting + dead) + 10 : 0;
  return node(
    place,
    position,
    s("rect", { class: "node-box", x: x + 0.5, y: y + 0.5, width: width - 1, height: height - 1, rx: 7 }),
    s("g", { class: "shape", transform: `translate(${x + 9} ${y + 9})` }, shape(agent.standing)),
    s("text", { x: x + 32, y: y + 21.5 }, cut(agent.agent, width - 40 - right)),
    (waiting || dead) && s("text", { class: "node-waiting", x: x + width - 10, y: y + 21.5 }, waiting, dead && s("tspan", { class: "node-dead" }, dead)),
  );
}

function dot(place, position) {
  const { agent, x, y, width } = place;
  return node(
    place,
    position,
    s("rect", { class: "node-dot", x: x + 1, y: y + 1, width: width - 2, height: width - 2, rx: 5 }),
    s("g", { class: "shape", transform: `translate(${x + 4} ${y + 4}) scale(0.875)` }, shape(agent.standing)),
  );
}

function shares({ parts, all, x, y, width, height }) {
  let left = x;
  const bars = parts.map(({ standing, count: n }) => {
    const part = Math.max((n / all) * width, 3);
    const bar = s("rect", { class: "share", "data-tone": STANDINGS[standing].tone, x: left, y, width: Math.max(part - 1.5, 2), height, rx: 2 });
    left += part;
    return bar;
  });
  const words = parts.map(({ standing, count: n }) => `${count(n)} ${STANDINGS[standing].word}`).join(" · ");
  return s("g", {}, bars, s("text", { class: "share-word", x, y: y + height + 17 }, words));
}

const fits = (text) => measure.measureText(text).width;

function cut(name, room) {
  if (fits(name) <= room) return name;
  let most = name.length;
  while (most > 1 && fits(`${name.slice(0, most)}…`) > room) most -= 1;
  return `${name.slice(0, most)}…`;
}

/** The arrows go through the agents of an environment. */
function step(event, svg) {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const from = event.target.closest?.(".node");
  if (!by || !from) return;
  const siblings = [...from.parentNode.querySelectorAll(".node")];
  const to = siblings[siblings.indexOf(from) + by];
  if (!to) return;
  event.preventDefault();
  from.setAttribute("tabindex", "-1");
  to.setAttribute("tabindex", "0");
  to.focus();
}

function empty() {
  return h(
    "div",
    { class: "empty" },
    h("p", {}, h("strong", {}, "No agent is registered. "), "An agent is a name and a token; with both, anything that can open a socket receives messages."),
    h("pre", { tabindex: 0, "aria-label": "Commands" }, [
      "export POSTBELL_AGENT=you POSTBELL_TOKEN=$(postbell agent add you)",
      "postbell listen &",
      "postbell send --to you --type command '{\"hello\": \"world\"}'",
    ].join("\n")),
  );
}
