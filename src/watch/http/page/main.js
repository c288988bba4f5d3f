// The status page: passes the broker's data to the parts, each of which draws itself.

import { follow } from "./api.js";
import { agents } from "./agents.js";
import { dead } from "./dead.js";
import { delivery } from "./delivery.js";
import { depth } from "./depth.js";
import { detail } from "./detail.js";
import { byId, fill, h } from "./dom.js";
import { passing } from "./passing.js";
import { picture } from "./picture.js";
import { identity } from "./token.js";
import { verdict } from "./verdict.js";
import { several, time } from "./words.js";

const THEMES = { auto: "as the system has them", light: "light", dark: "dark" };

let seen = null;
let retry = 0;
/** Begins the stream anew, once there is one. */
let again = () => {};

const who = identity(() => {
  letters.read();
  again();
});
const letters = dead(byId("dead"), who);
const mesh = picture(byId("picture"), byId("key"));
const minutes = delivery(byId("delivery"));
const list = agents(byId("agents"));
const stream = passing(byId("passing"));
const drawer = detail(who.may);
who.ready.then(() => {
  again = follow(told, connection);
});

function told(name, data) {
  if (name === "flow") {
    mesh.passed(data);
    stream(data);
    drawer.passed(data);
  } else if (name === "mesh") {
    seen = new Date();
    show(data);
  }
}

function show(data) {
  document.title = data.verdict.level === "ok" ? "Postbell" : `(${data.verdict.findings.length}) Postbell`;
  byId("broker").textContent = data.broker.name === "postbell" ? "" : data.broker.name;
  verdict(data);
  mesh.show(data);
  minutes(data);
  depth(byId("depth"), data);
  list(data);
  drawer.mesh(data);
  letters.mesh(data);
  const alive = data.brokers.filter((broker) => broker.alive).length;
  byId("delivery-aside").textContent = alive > 1
    ? "the last hour, by this broker alone; the others show theirs"
    : "the last hour, by this broker";
  fill(
    byId("foot"),
    h("span", {}, `Postbell ${data.broker.version}`),
    h("span", {}, alive > 1 ? `one of ${several(alive, "broker")} of this database: flow, in flight and delivery times are its own` : "the only broker of this database"),
    h("span", {}, `up ${data.broker.up_minutes < 120 ? `${data.broker.up_minutes} min` : `${Math.floor(data.broker.up_minutes / 60)} h`}`),
    h("a", { href: "/metrics" }, "metrics"),
    h("a", { href: "/health" }, "health"),
  );
}

function connection(state, wait = 0) {
  const words = { connecting: "Connecting", live: "Live", lost: "Not connected", denied: "Token needed" };
  byId("live").setAttribute("data-state", state);
  byId("live-words").textContent = words[state];
  clearInterval(retry);
  const lost = byId("lost");
  if (state === "live") {
    lost.hidden = true;
    byId("main").removeAttribute("data-stale");
    return;
  }
  if (state === "denied") {
    byId("verdict-sentence").textContent = "This broker shows its mesh to those with a token.";
    fill(byId("findings"), h("li", {}, h("button", { type: "button", class: "main", onclick: who.enter }, "Enter a token")));
    fill(lost);
    lost.hidden = true;
    return;
  }
  if (state !== "lost") return;
  byId("main").setAttribute("data-stale", "");
  const until = Date.now() + wait;
  const count = h("span", { "aria-hidden": "true" });
  const tick = () => {
    count.textContent = ` Trying again in ${Math.max(Math.ceil((until - Date.now()) / 1000), 0)} s.`;
  };
  tick();
  retry = setInterval(tick, 500);
  const since = seen ? `The page shows the state of ${time(seen)}.` : "Nothing was read yet.";
  fill(lost, h("span", {}, h("strong", {}, "The broker cannot be reached. "), since), count);
  lost.hidden = false;
}

function route() {
  const agent = /^#agent\/(.+)$/.exec(location.hash);
  if (agent) drawer.show(decodeURIComponent(agent[1]));
  else drawer.close();
}

function theme() {
  const button = byId("theme");
  const names = Object.keys(THEMES);
  let name = "auto";
  try {
    name = names.includes(localStorage.getItem("postbell.theme")) ? localStorage.getItem("postbell.theme") : "auto";
  } catch {
    // Storage is switched off: the theme is the system's.
  }
  const show = () => {
    document.documentElement.toggleAttribute("data-theme", name !== "auto");
    if (name !== "auto") document.documentElement.setAttribute("data-theme", name);
    byId("theme-name").textContent = name;
    button.title = `Colours: ${THEMES[name]}`;
  };
  button.addEventListener("click", () => {
    name = names[(names.indexOf(name) + 1) % names.length];
    try {
      localStorage.setItem("postbell.theme", name);
    } catch {
      // Storage is switched off: the choice lives as long as the page.
    }
    show();
  });
  show();
}

theme();
addEventListener("hashchange", route);
route();
