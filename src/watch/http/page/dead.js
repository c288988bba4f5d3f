// Dead letters: why they were given up; redriven and purged by operators.

import { get, post } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { count, seconds, several } from "./words.js";

export function dead(holder, identity) {
  const chosen = new Set();
  let mesh = null;
  let letters = null;
  let more = false;
  let said = "";
  let fault = "";
  let busy = false;

  async function read(before = null) {
    if (!identity.may().reads) return draw();
    try {
      const page = await get(`/api/dead?limit=50${before === null ? "" : `&before=${before}`}`);
      letters = before === null ? page.letters : [...letters, ...page.letters];
      more = page.more;
      const there = new Set(letters.map((letter) => letter.delivery_id));
      for (const id of chosen) if (!there.has(id)) chosen.delete(id);
      fault = "";
    } catch (error) {
      fault = error.message;
    }
    draw();
  }

  async function settle(what) {
    const ids = [...chosen];
    if (what === "purge" && !(await sure(ids.length))) return;
    busy = true;
    draw();
    try {
      const done = await post(`/api/dead/${what}`, { ids });
      said = `${several(done.count, "letter")} ${what === "redrive" ? "redriven" : "purged"}.`;
      chosen.clear();
      fault = "";
    } catch (error) {
      fault = error.message;
    }
    busy = false;
    await read();
  }

  function draw() {
    if (!mesh) return;
    const may = identity.may();
    byId("dead-aside").textContent = mesh.dead > 0 ? several(mesh.dead, "letter") : "";
    if (mesh.dead === 0) {
      return fill(holder, said && h("p", { role: "status" }, said), h("p", { class: "empty" }, "None. A delivery becomes one after its last attempt failed, when its agent says so, or when it can never be delivered. The letter then waits here, with the reason, until somebody redrives or purges it."));
    }
    if (!may.reads) {
      return fill(holder, h("div", { class: "empty" }, h("p", {}, `${several(mesh.dead, "delivery was", "deliveries were")} given up. Reasons may quote messages, so reading them takes a token.`), h("p", {}, h("button", { type: "button", class: "main", "data-key": "enter", onclick: identity.enter }, "Enter a token"))));
    }
    if (!letters) return fill(holder, fault ? h("p", { class: "fault", role: "alert" }, fault) : h("p", { class: "empty" }, "Reading…"));
    fill(holder, actions(may), fault && h("p", { class: "fault", role: "alert" }, fault), table(may), more && h("button", { type: "button", class: "quiet more", "data-key": "older", onclick: () => read(letters.at(-1).delivery_id) }, "Show older ones"));
  }

  function actions(may) {
    if (!may.operates) return h("p", { class: "aside more" }, "To redrive or purge takes an operator's token.");
    const none = chosen.size === 0 || busy;
    return h(
      "div",
      { class: "dead-actions" },
      h("button", { type: "button", class: "main", "data-key": "redrive", disabled: none, onclick: () => settle("redrive") }, chosen.size > 0 ? `Redrive ${count(chosen.size)}` : "Redrive"),
      h("button", { type: "button", class: "quiet", "data-key": "purge", disabled: none, onclick: () => settle("purge") }, "Purge"),
      h("span", { class: "said", role: "status" }, said || (chosen.size === 0 ? "Choose letters to redrive or purge." : "")),
    );
  }

  function table(may) {
    const all = letters.length > 0 && letters.every((letter) => chosen.has(letter.delivery_id));
    const box = (key, label, checked, change) => h("input", { type: "checkbox", "data-key": key, "aria-label": label, checked, onchange: change });
    const choose = (ids, on) => {
      for (const id of ids) on ? chosen.add(id) : chosen.delete(id);
      said = "";
      draw();
    };
    const ids = letters.map((letter) => letter.delivery_id);
    return h("div", { class: "scroll" }, h(
      "table",
      {},
      h("thead", {}, h("tr", {},
        may.operates && h("th", { scope: "col", class: "box" }, box("choose all", "All that are shown", all, (event) => choose(ids, event.target.checked))),
        h("th", { scope: "col" }, "To"),
        h("th", { scope: "col", class: "wide" }, "From"),
        h("th", { scope: "col" }, "Why"),
        h("th", { scope: "col", class: "num wide" }, "Attempts"),
        h("th", { scope: "col", class: "num" }, "Since"))),
      h("tbody", {}, letters.map((letter) => h(
        "tr",
        {},
        may.operates && h("td", { class: "box" }, box(`choose ${letter.delivery_id}`, `Letter ${letter.delivery_id} to ${letter.inbox}`, chosen.has(letter.delivery_id), (event) => choose([letter.delivery_id], event.target.checked))),
        h("td", { class: "name" }, h("a", { href: `#agent/${encodeURIComponent(letter.inbox)}`, "data-key": `dead ${letter.delivery_id}` }, letter.inbox)),
        h("td", { class: "name wide" }, letter.from_agent_id),
        h("td", {}, h("p", { class: "reason" }, letter.reason ?? "No reason was given."), h("p", { class: "aside" }, `${letter.message_type}, priority ${letter.priority}, number ${letter.delivery_id}`), payload(letter)),
        h("td", { class: "num wide" }, count(letter.attempt)),
        h("td", { class: "num none" }, letter.dead_at ? seconds(Math.max(Date.now() - Date.parse(letter.dead_at), 0) / 1000) : "–"),
      ))),
    ));
  }

  return {
    mesh(next) {
      const other = mesh === null || mesh.dead !== next.dead;
      mesh = next;
      if (other) read();
    },
    read: () => read(),
  };
}

/** The payload is read when it is opened: it may be long, and most are never looked at. */
function payload(letter) {
  const text = h("pre", { tabindex: 0 }, "Reading…");
  const details = h("details", { class: "payload", ontoggle: async () => {
    if (!details.open || text.dataset.read) return;
    text.dataset.read = "yes";
    try {
      const [found] = await get(`/api/dead/${letter.delivery_id}`);
      text.textContent = JSON.stringify(found.payload, null, 2);
    } catch (error) {
      text.textContent = error.message;
    }
  } }, h("summary", {}, "Payload"), text);
  return details;
}

function sure(n) {
  const dialog = byId("sure");
  byId("sure-title").textContent = `Purge ${several(n, "dead letter")}?`;
  byId("sure-words").textContent = "They are deleted and will not be delivered. Their messages stay in the table as failed until retention removes them.";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
