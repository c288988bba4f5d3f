// Takes messages of NATS JetStream: see README.md beside this.

import { AckPolicy, jetstream, jetstreamManager, StorageType } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { main, now, received } from "../line.mjs";

const STREAM = "work";
const CONSUMER = "taker";
/** As many as the others have in their windows. */
const WINDOW = 1_000;

const reach = () => connect({ servers: process.env.NATS_ADDRESS });

async function setup() {
  const connection = await reach();
  const manager = await jetstreamManager(connection);
  await manager.streams.add({ name: STREAM, subjects: [STREAM], storage: StorageType.File });
  await manager.consumers.add(STREAM, {
    durable_name: CONSUMER,
    ack_policy: AckPolicy.Explicit,
    max_ack_pending: WINDOW,
  });
  await connection.close();
}

async function take() {
  const connection = await reach();
  const consumer = await jetstream(connection).consumers.get(STREAM, CONSUMER);
  const callback = (message) => {
    received(message.json().n, now());
    message.ack();
  };
  const messages = await consumer.consume({ max_messages: WINDOW, callback });
  return async () => {
    await messages.close();
    await connection.drain();
  };
}

await main({ setup, take });
