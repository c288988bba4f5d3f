// How a process that takes messages talks with the load test: see README.md, "The lines".

import { createInterface } from "node:readline";

/** How long a receipt may wait to be written: the load test takes its moment from its line. */
const WRITE_EVERY_MS = 10;
/** Written at once when so much has gathered. */
const TEXT_MAX = 64 * 1024;

let gathered = "";

function write() {
  if (gathered) process.stdout.write(gathered);
  gathered = "";
}

function say(line) {
  gathered += `${line}\n`;
  write();
}

/** The moment, by the clock that every process of a machine has in common. */
export function now() {
  return process.hrtime.bigint();
}

/** Notes that message `n` is in hand since `at`. */
export function received(n, at) {
  gathered += `${n} ${at}\n`;
  if (gathered.length > TEXT_MAX) write();
}

/**
 * Runs what the command line asks for. `setup` makes the queue, and returns what the load test must know of it. `take`
 * begins to take messages, and returns how to end that.
 */
export async function main({ setup, take }) {
  if (process.argv[2] === "setup") {
    say(JSON.stringify((await setup()) ?? {}));
    return;
  }
  const orders = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  say("ready");
  await orders.next();
  const stop = await take();
  say("taking");
  const writing = setInterval(write, WRITE_EVERY_MS);
  // The next order is to stop; the end of the orders says the same.
  await orders.next();
  await stop();
  clearInterval(writing);
  write();
}
