// Messages on their way: from the sender to the bell to the recipient. If the reader wants no motion, the recipient lights up
// instead. At most `MOVING_MAX` move at a time: nobody could follow a flood, and it must not heat a laptop.

import { s } from "./dom.js";

const MOVING_MAX = 90;
const TRAVEL_MS = 1_100;
const RING_MS = 700;
const FLASH_MS = 900;
/** Frames come up to five times a second. A frame's events are spread over this time, so that they do not come in bursts. */
const SPREAD_MS = 200;

const still = window.matchMedia("(prefers-reduced-motion: reduce)");

export function motion(layer) {
  let places = { agents: new Map(), boxes: new Map(), hub: { x: 0, y: 0, r: 0 } };
  let environments = new Map();
  let moving = [];
  let running = false;

  const place = (agent) => places.agents.get(agent) ?? places.boxes.get(environments.get(agent)) ?? null;

  function add(thing) {
    if (moving.length >= MOVING_MAX || document.hidden) return;
    layer.append(thing.element);
    moving.push(thing);
    if (!running) {
      running = true;
      requestAnimationFrame(tick);
    }
  }

  function tick(now) {
    moving = moving.filter((thing) => {
      const share = (now - thing.begins) / thing.lasts;
      if (share >= 1) {
        thing.element.remove();
        thing.done?.();
        return false;
      }
      thing.element.style.visibility = share < 0 ? "hidden" : "visible";
      if (share >= 0) thing.at(share);
      return true;
    });
    running = moving.length > 0;
    if (running) requestAnimationFrame(tick);
  }

  function travel(event, delay) {
    const to = place(event.agent ?? event.to);
    if (!to) return;
    const from = place(event.from);
    const { hub } = places;
    const urgent = event.priority !== undefined && event.priority <= 3;
    const element = urgent
      ? s("rect", { class: "message", "data-urgent": true, x: -5, y: -5, width: 10, height: 10 })
      : s("circle", { class: "message", r: 5 });
    const turn = urgent ? " rotate(45)" : "";
    add({
      element,
      begins: performance.now() + delay,
      lasts: from ? TRAVEL_MS : TRAVEL_MS / 2,
      at(share) {
        const half = from ? share * 2 : share + 1;
        const [a, b, t] = from && half < 1 ? [from, hub, ease(half)] : [hub, to, ease(from ? half - 1 : share)];
        // Out of the row first, then across, so that a message does not run over the names.
        const bend = places.narrow ? 0 : (1 - t) * t * (b.y - a.y) * 0.35;
        element.setAttribute("transform", `translate(${a.x + (b.x - a.x) * t} ${a.y + (b.y - a.y) * t + bend})${turn}`);
      },
    });
  }

  function ring(event, delay) {
    const at = place(event.agent ?? event.to);
    if (!at) return;
    const well = event.step === "acked";
    const element = well
      ? s("circle", { class: "ring", "data-tone": "ok", cx: at.x, cy: at.y, r: 4 })
      : s("path", { class: "cross", d: `M${at.x - 6} ${at.y - 6}l12 12m0-12l-12 12` });
    add({
      element,
      begins: performance.now() + delay,
      lasts: RING_MS,
      at(share) {
        if (well) element.setAttribute("r", 4 + share * 14);
        element.setAttribute("opacity", 1 - share * share);
      },
    });
  }

  function flash(event) {
    const node = [...layer.parentNode.querySelectorAll(".node")].find((found) => found.getAttribute("data-key") === (event.agent ?? event.to));
    if (!node) return;
    node.classList.add("flash");
    setTimeout(() => node.classList.remove("flash"), FLASH_MS);
  }

  return {
    /** Takes the agents' places and environments. An agent that is drawn as part of a share has no place of its own. */
    places(next, environmentOf) {
      places = next;
      environments = environmentOf;
    },
    passed(frame) {
      frame.events.forEach((event, position) => {
        const delay = (position / frame.events.length) * SPREAD_MS;
        if (still.matches) flash(event);
        else if (event.step === "pushed") travel(event, delay);
        else if (event.step !== "released") ring(event, delay + (event.step === "acked" ? TRAVEL_MS : 0));
      });
      if (still.matches) return;
      (frame.more ?? []).filter((more) => more.to && more.step === "pushed").slice(0, 20)
        .forEach((more, position) => travel(more, position * 10));
    },
  };
}

const ease = (t) => (t < 0.5 ? 2 * t * t : 1 - (2 - 2 * t) ** 2 / 2);
