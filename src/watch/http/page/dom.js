// Elements from data. Text only ever becomes text, because anybody who may send a message writes payloads and names.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties `on…` are listeners, others attributes; null, undefined and false leave a property out. */
export function h(tag, properties = {}, ...children) {
  return build(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties = {}, ...children) {
  return build(document.createElementNS(SVG, tag), properties, children);
}

function build(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Replaces the content of an element. The focus stays on the element with the same `data-key`. */
export function fill(element, ...children) {
  const active = document.activeElement;
  const key = active && element.contains(active) ? active.getAttribute("data-key") : null;
  element.replaceChildren(...children.flat().filter(Boolean));
  if (key !== null) {
    const again = [...element.querySelectorAll("[data-key]")].find((found) => found.getAttribute("data-key") === key);
    again?.focus({ preventScroll: true });
  }
}

/** The marks: each standing and step has a shape of its own, so that people who see no colour can tell them apart. */
const SHAPES = {
  ok: () => [s("circle", { cx: 8, cy: 8, r: 5.5, fill: "currentColor" })],
  late: () => [s("path", { d: "M8 1.8 15 14H1z", fill: "currentColor" })],
  stranded: () => [
    s("path", { d: "M8 .8 15.2 8 8 15.2.8 8z", fill: "currentColor" }),
    s("path", { d: "M8 4.6v4M8 10.6v.9", stroke: "var(--surface)", "stroke-width": 1.8, "stroke-linecap": "round" }),
  ],
  error: () => [
    s("rect", { x: 2, y: 2, width: 12, height: 12, rx: 2, fill: "currentColor" }),
    s("path", { d: "m5.4 5.4 5.2 5.2m0-5.2-5.2 5.2", stroke: "var(--surface)", "stroke-width": 1.8, "stroke-linecap": "round" }),
  ],
  offline: () => [s("circle", { cx: 8, cy: 8, r: 5, fill: "none", stroke: "currentColor", "stroke-width": 1.8 })],
  disabled: () => [
    s("circle", { cx: 8, cy: 8, r: 5.6, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    s("path", { d: "M4.2 11.8 11.8 4.2", stroke: "currentColor", "stroke-width": 1.6 }),
  ],
  pushed: () => [s("path", { d: "M2 8h10M8.5 4 12.5 8l-4 4", fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linecap": "round", "stroke-linejoin": "round" })],
  acked: () => [s("path", { d: "m2.5 8.5 3.7 3.7L13.5 4.5", fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round", "stroke-linejoin": "round" })],
  failed: () => [s("path", { d: "m3.5 3.5 9 9m0-9-9 9", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round" })],
  dead: () => [
    s("rect", { x: 1.5, y: 3.5, width: 13, height: 9.5, rx: 1.5, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    s("path", { d: "m5.5 6 5 4.6m0-4.6-5 4.6", stroke: "currentColor", "stroke-width": 1.6, "stroke-linecap": "round" }),
  ],
  released: () => [s("path", { d: "M13 6.5H5.5a3 3 0 0 0 0 6H8M9.8 3.2 13 6.5 9.8 9.8", fill: "none", stroke: "currentColor", "stroke-width": 1.8, "stroke-linecap": "round", "stroke-linejoin": "round" })],
  expired: () => [
    s("circle", { cx: 8, cy: 8, r: 5.8, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    s("path", { d: "M8 4.8V8l2.2 1.6", fill: "none", stroke: "currentColor", "stroke-width": 1.6, "stroke-linecap": "round" }),
  ],
  waits: () => SHAPES.offline(),
  due: () => SHAPES.expired(),
  created: () => [s("path", { d: "M8 3v10M3 8h10", stroke: "currentColor", "stroke-width": 1.8, "stroke-linecap": "round" })],
};

/** The parts of a mark, to be placed in a picture of 16 by 16. */
export const shape = (name) => (SHAPES[name] ?? SHAPES.offline)();

/** A mark in a text, hidden from screen readers because the words beside it say the same. */
export function mark(name, tone) {
  return s("svg", { class: "mark", viewBox: "0 0 16 16", "aria-hidden": "true", "data-tone": tone }, shape(name));
}
