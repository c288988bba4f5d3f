// Numbers and states in words, in one place.

const plain = new Intl.NumberFormat("en-GB");

export const count = (n) => plain.format(n);

/** `1 message`, `2 messages`. */
export const several = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Seconds in one unit: `40 s`, `12 min`, `3 h`. */
export function seconds(n) {
  if (n < 120) return `${Math.floor(n)} s`;
  if (n < 7200) return `${Math.floor(n / 60)} min`;
  if (n < 172800) return `${Math.floor(n / 3600)} h`;
  return `${Math.floor(n / 86400)} d`;
}

/** Milliseconds as a person says them: `1.9 ms`, `240 ms`, `2.4 s`. */
export function milliseconds(n) {
  if (n < 10) return `${n.toFixed(1)} ms`;
  if (n < 1000) return `${Math.round(n)} ms`;
  if (n < 10000) return `${(n / 1000).toFixed(1)} s`;
  return seconds(n / 1000);
}

/** A share in percent, never rounded up to all. */
export function percent(part, whole) {
  if (whole === 0) return "–";
  const share = (part / whole) * 100;
  return share === 100 ? "100 %" : `${(Math.floor(share * 10) / 10).toFixed(1)} %`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const time = (date) => clock.format(date);

/** Each standing of an agent: its word, the tone of its colour, and its meaning. */
export const STANDINGS = {
  stranded: { word: "stranded", tone: "bad", means: "offline, and messages wait for it" },
  late: { word: "late", tone: "late", means: "connected, and messages have waited over 5 s" },
  error: { word: "error", tone: "bad", means: "reports an error" },
  ok: { word: "online", tone: "ok", means: "connected" },
  offline: { word: "offline", tone: "off", means: "not connected, nothing waits" },
  disabled: { word: "disabled", tone: "off", means: "may not connect" },
};

/** Each step of a delivery: its word and the tone of its colour. */
export const STEPS = {
  created: { word: "inserted", tone: "off" },
  pushed: { word: "pushed", tone: "brass" },
  acked: { word: "acknowledged", tone: "ok" },
  released: { word: "given back", tone: "off" },
  failed: { word: "failed", tone: "bad" },
  dead: { word: "dead letter", tone: "bad" },
  expired: { word: "expired", tone: "late" },
  waits: { word: "waits", tone: "off" },
  due: { word: "due", tone: "off" },
};

/** Cuts a text to at most `most` characters. */
export const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
