// One agent: its standing, and its latest messages with what happened to each.

import { get } from "./api.js";
import { byId, fill, h, mark } from "./dom.js";
import { STANDINGS, STEPS, count, milliseconds, seconds, several } from "./words.js";

export function detail(may) {
  const drawer = byId("detail");
  let open = null;
  let mesh = null;
  let answer = null;

  drawer.addEventListener("close", () => {
    // The event comes a moment later: another agent may have been opened meanwhile.
    if (drawer.open) return;
    open = null;
    // Removes the hash without a jump of the page.
    if (location.hash.startsWith("#agent/")) history.replaceState(null, "", location.pathname);
  });
  drawer.addEventListener("click", (event) => event.target === drawer && drawer.close());

  async function read() {
    const name = open;
    try {
      const found = await get(`/api/agents/${encodeURIComponent(name)}/messages`);
      if (open === name) answer = found;
    } catch (error) {
      if (open === name) answer = { error: error.message };
    }
    if (open === name) draw();
  }

  function draw() {
    const agent = mesh?.agents.find((found) => found.agent === open);
    fill(
      drawer,
      h(
        "header",
        { class: "drawer-head" },
        h("div", {}, h("h2", { id: "detail-title" }, open), h("p", { class: "aside" }, agent ? `${agent.type} · ${agent.environment}${agent.role === "agent" ? "" : ` · ${agent.role}`}` : "not in the list of this page")),
        h("button", { type: "button", class: "quiet", "data-key": "close", onclick: () => drawer.close() }, "Close"),
      ),
      agent && facts(agent),
      h(
        "header",
        { class: "panel-head" },
        h("h3", {}, "Last messages"),
        h("button", { type: "button", class: "quiet", "data-key": "again", onclick: read }, "Read again"),
      ),
      messages(),
    );
  }

  function messages() {
    if (!answer) return h("p", { class: "empty" }, "Reading…");
    if (answer.error) return h("p", { class: "fault", role: "alert" }, answer.error);
    if (answer.messages.length === 0) {
      return h("p", { class: "empty" }, "None among the newest 20,000 messages of the mesh, and none waits. Send one: ", h("code", {}, `postbell send --to ${open} '{}'`));
    }
    const hint = !may().reads && h("p", { class: "aside" }, "Payloads and reasons take a viewer's token.");
    return h("div", {}, hint, h("ol", { class: "lives" }, answer.messages.map((message) => life(message, open, answer.read_at))));
  }

  return {
    show(name) {
      open = name;
      answer = null;
      draw();
      if (!drawer.open) drawer.showModal();
      read();
    },
    close: () => drawer.open && drawer.close(),
    mesh(next) {
      mesh = next;
      if (open !== null && answer) draw();
    },
    /** A frame of the flow: if it has a step of this agent, its messages are read again. */
    passed(frame) {
      const mine = frame.events.some((event) => [event.to, event.from, event.agent].includes(open));
      if (open !== null && mine && answer && !answer.stale) {
        answer.stale = true;
        setTimeout(() => open !== null && read(), 600);
      }
    },
  };
}

function facts(agent) {
  const { word, tone, means } = STANDINGS[agent.standing];
  const all = [
    ["state", [mark(agent.standing, tone), ` ${word}`]],
    ["waiting", count(agent.waiting)],
    agent.oldest_seconds !== undefined && ["oldest", seconds(agent.oldest_seconds)],
    ["in flight", agent.in_flight === undefined ? "not known here" : count(agent.in_flight)],
    ["dead letters", count(agent.dead)],
    ["heartbeat", agent.seen_seconds === undefined ? "never" : agent.seen_seconds < 20 ? "now" : `${seconds(agent.seen_seconds)} ago`],
    agent.broker && ["inbox with", agent.broker],
  ];
  return h("dl", { class: "facts", title: means }, all.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function life(message, agent, readAt) {
  const away = message.from === agent;
  const other = away ? (message.to ?? (message.many ? `${message.many} (many)` : "everybody")) : message.from;
  const age = Date.parse(readAt) - Date.parse(message.created_at);
  const reason = message.delivery?.reason ?? message.error;
  return h(
    "li",
    { class: "life" },
    h(
      "div",
      { class: "life-head" },
      h("span", { class: "path" }, away ? `to ${other}` : `from ${other}`),
      h("span", { class: "aside" }, `${message.type}, priority ${message.priority}`),
      h("time", { class: "aside", datetime: message.created_at, title: message.created_at }, `${seconds(Math.max(age, 0) / 1000)} ago`),
    ),
    h("ol", { class: "moments" }, moments(message, readAt).map(([step, words]) => h("li", {}, mark(step, STEPS[step].tone), h("span", {}, words)))),
    reason && h("p", { class: "reason" }, reason),
    message.payload !== undefined && h("details", { class: "payload" }, h("summary", {}, "Payload"), h("pre", { tabindex: 0 }, JSON.stringify(message.payload, null, 2))),
    h("p", { class: "aside mono" }, message.id),
  );
}

/** The known moments of a message, in order: from the table, and from the broker's journal as long as that remembers them. */
function moments(message, readAt) {
  const created = Date.parse(message.created_at);
  const read = Date.parse(readAt);
  const after = (at) => `after ${milliseconds(Math.max(at - created, 0))}`;
  const all = [["created", "inserted"]];
  for (const { step, attempt, ms, ago_ms: ago } of message.moments) {
    // The broker's clock gives the times that it measured itself, the database's clock the rest. The clocks may differ slightly.
    const when = step === "pushed" ? `after ${milliseconds(ms)}` : step === "acked" ? `${milliseconds(ms)} later` : after(read - ago);
    all.push([step, `${STEPS[step].word}${attempt > 1 ? ` (attempt ${attempt})` : ""} ${when}`]);
  }
  const has = (step) => message.moments.some((moment) => moment.step === step);
  if (!has("pushed") && message.delivered_at && message.delivered_at !== message.processed_at) all.push(["pushed", `pushed ${after(Date.parse(message.delivered_at))}`]);
  if (!has("acked") && message.status === "processed") all.push(["acked", `acknowledged ${after(Date.parse(message.processed_at))}`]);
  const { delivery } = message;
  if (delivery) {
    if (!has("failed") && delivery.failed_attempts > 0) all.push(["failed", several(delivery.failed_attempts, "failed attempt")]);
    if (delivery.state === "dead" && !has("dead")) all.push(["dead", `dead letter ${after(Date.parse(delivery.dead_at))}`]);
    if (delivery.state === "scheduled") all.push(["due", `due in ${seconds(Math.max(Date.parse(delivery.due_at) - read, 0) / 1000)}`]);
    if (delivery.state === "ready" && message.moments.at(-1)?.step !== "pushed") all.push(["waits", "waits"]);
    if (delivery.open > 1) all.push(["waits", `open for ${count(delivery.open)} recipients`]);
  } else if (message.status === "failed" && !has("dead")) all.push(["failed", "failed"]);
  return all;
}
