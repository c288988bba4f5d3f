// The reader's identity for the broker: the token that was entered, and its rights.

import { ApiError, hasToken, keep, me } from "./api.js";
import { byId } from "./dom.js";

/** Calls `changed` whenever the rights have changed. */
export function identity(changed) {
  const button = byId("who");
  const dialog = byId("ask");
  const fault = byId("ask-fault");
  let may = { level: "nothing", name: null };

  function show() {
    const words = { nothing: "Enter a token", look: "Enter a token", read: "Viewer", operate: may.name === "operator" ? "Operator" : `Operator ${may.name}` };
    button.textContent = words[may.level];
    byId("ask-forget").hidden = !hasToken();
  }

  async function ask() {
    try {
      const answer = await me();
      may = { level: answer.may, name: answer.name ?? null };
    } catch (error) {
      // The broker no longer accepts the token. If the broker cannot be reached, nothing is known and the token stays.
      if (error instanceof ApiError && error.status === 401) {
        keep(null);
        may = { level: "nothing", name: null };
        return ask();
      }
    }
    show();
    changed();
  }

  function enter() {
    fault.textContent = "";
    dialog.showModal();
  }

  button.addEventListener("click", enter);
  byId("ask-cancel").addEventListener("click", () => dialog.close());
  byId("ask-forget").addEventListener("click", () => {
    keep(null);
    dialog.close();
    ask();
  });
  byId("ask-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = { token: byId("ask-token").value.trim(), agent: byId("ask-agent").value.trim() || null };
    try {
      await me(token);
    } catch (error) {
      fault.textContent = error.message;
      return;
    }
    keep(token);
    byId("ask-token").value = "";
    dialog.close();
    ask();
  });

  // `postbell dev` prints an address with the token behind the #, a part that no server sees.
  const given = /^#token=([^&]+)$/.exec(location.hash);
  if (given) {
    keep({ token: decodeURIComponent(given[1]), agent: null });
    history.replaceState(null, "", location.pathname);
  }
  const ready = ask();

  return {
    ready,
    enter,
    ask,
    may: () => ({ looks: may.level !== "nothing", reads: ["read", "operate"].includes(may.level), operates: may.level === "operate" }),
  };
}
