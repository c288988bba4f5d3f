// Takes messages by graphile-worker: see README.md beside this.

import { Logger, run, runMigrations } from "graphile-worker";
import { main, now, received } from "../line.mjs";

const connectionString = process.env.DATABASE_URL;

/** The project's page on performance measures with these, but for a local queue as long as the others' windows. */
const worker = {
  connectionString,
  concurrentJobs: 24,
  maxPoolSize: 25,
  localQueue: { size: 1_000 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
  // A line of the log for each job would be the slowest part.
  logger: new Logger(() => (level, message) => {
    if (level === "error") console.error(message);
  }),
};

async function take() {
  const work = (payload) => received(payload.n, now());
  const runner = await run({ preset: { worker }, taskList: { work }, noHandleSignals: true, parsedCronItems: [] });
  return () => runner.stop();
}

await main({ setup: () => runMigrations({ connectionString, logger: worker.logger }), take });
