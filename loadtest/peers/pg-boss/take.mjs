// Takes messages by pg-boss: see README.md beside this.

import { PgBoss } from "pg-boss";
import { main, now, received } from "../line.mjs";

const QUEUE = "work";
/** Without notifications a producer's COMMIT waits for no other's; a message waits for the next poll. */
const IS_POLLED = process.env.LOADTEST_POLLED === "1";
const WORK = { batchSize: 1_000, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };

function connect() {
  const connectionString = process.env.DATABASE_URL;
  const boss = new PgBoss({ connectionString, useListenNotify: !IS_POLLED, schedule: false });
  boss.on("error", (error) => console.error(error));
  return boss;
}

/** Makes the queue, and learns the statement by which `send` inserts a job. */
async function setup() {
  const boss = await connect().start();
  await boss.createQueue(QUEUE, { notify: !IS_POLLED });
  let statement;
  const executeSql = async (text) => {
    statement = text;
    return { rows: [{ id: "none" }] };
  };
  await boss.send(QUEUE, {}, { db: { executeSql } });
  await boss.stop();
  return { statement };
}

async function take() {
  const boss = await connect().start();
  await boss.work(QUEUE, WORK, async (jobs) => {
    const at = now();
    for (const job of jobs) received(job.data.n, at);
  });
  return () => boss.stop();
}

await main({ setup, take });
