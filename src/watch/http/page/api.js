// The way to the broker: JSON by /api, and the flow as a stream of events.
//
// The stream is read by fetch and not by EventSource, which cannot send the token.

const KEPT = "postbell.token";
/** The broker sends something every 15 s. After this long without anything the connection counts as lost. */
const SILENCE_MS = 40_000;
const PAUSE_FIRST_MS = 1_000;
const PAUSE_MAX_MS = 15_000;

/** An error, in the broker's sentence. */
export class ApiError extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

let kept = null;
try {
  kept = JSON.parse(sessionStorage.getItem(KEPT));
} catch {
  // Storage is switched off: the token lives as long as the page.
}

/** Remembers a token in this tab; null forgets it. */
export function keep(token) {
  kept = token;
  try {
    if (token) sessionStorage.setItem(KEPT, JSON.stringify(token));
    else sessionStorage.removeItem(KEPT);
  } catch {
    // Storage is switched off: the token lives as long as the page.
  }
}

export const hasToken = () => kept !== null;

function headers(token = kept) {
  // If a proxy hides where the request began, only the page can tell.
  const all = { "postbell-page": location.origin };
  if (!token) return all;
  all.authorization = `Bearer ${token.token}`;
  if (token.agent) all["postbell-agent"] = encodeURIComponent(token.agent);
  return all;
}

async function ask(path, options = {}, token = kept) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...headers(token), ...options.headers }, cache: "no-store", credentials: "omit" });
  } catch {
    throw new ApiError(0, "The broker cannot be reached.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new ApiError(answer.status, sentence(said?.error ?? `The broker answered ${answer.status}.`));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

export const get = async (path) => (await ask(path)).json();

export async function post(path, body) {
  const options = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  return (await ask(path, options)).json();
}

/** The rights of a token, which is not kept. */
export const me = async (token = kept) => (await ask("/api/me", {}, token)).json();

/**
 * Follows the stream as long as the page lives. `told` gets each event's name and data. `state` gets the state of the connection:
 * connecting, live, lost (with the milliseconds until the next try) or denied. Returns a function that begins anew, for example
 * with another token.
 */
export function follow(told, state) {
  let current = new AbortController();
  let wake = () => {};
  let pause = PAUSE_FIRST_MS;
  let anew = false;

  async function once(signal) {
    state("connecting");
    const answer = await ask("/api/events", { signal });
    pause = PAUSE_FIRST_MS;
    state("live");
    let watchdog = 0;
    const reader = answer.body.getReader();
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => current.abort(), SILENCE_MS);
    };
    try {
      alive();
      const parse = parser(told);
      const decoder = new TextDecoder();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        alive();
        parse(decoder.decode(value, { stream: true }));
      }
    } finally {
      clearTimeout(watchdog);
    }
  }

  async function run() {
    for (;;) {
      current = new AbortController();
      let denied = false;
      anew = false;
      try {
        await once(current.signal);
      } catch (error) {
        denied = error.status === 401;
      }
      if (anew) continue;
      if (denied) {
        state("denied");
        await new Promise((resolve) => (wake = resolve));
      } else {
        // The wait varies, so that many pages do not come back at once.
        const wait = pause * (0.75 + Math.random() / 2);
        pause = Math.min(pause * 2, PAUSE_MAX_MS);
        state("lost", wait);
        await new Promise((resolve) => {
          wake = resolve;
          setTimeout(resolve, wait);
        });
      }
    }
  }

  run();
  return () => {
    pause = PAUSE_FIRST_MS;
    anew = true;
    current.abort();
    wake();
  };
}

/** Returns a function that takes pieces of an event stream and tells each whole event. */
export function parser(told) {
  let rest = "";
  return (piece) => {
    const blocks = (rest + piece).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let name = "message";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) told(name, JSON.parse(data));
    }
  };
}
