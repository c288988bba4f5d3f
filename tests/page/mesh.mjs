// A broker with a Postgres of its own, and agents that are a socket and a few lines, as anybody's are.

import { execFile, spawn } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const run = promisify(execFile);
/** No event takes so long unless it never comes. */
const PATIENCE_MS = 60_000;

/** Starts `postbell dev`. */
export async function start(binary, token) {
  const folder = await mkdtemp(join(tmpdir(), "postbell-page-"));
  const environment = { ...process.env, POSTBELL_OPERATOR_TOKEN: token.operator, POSTBELL_VIEWER_TOKEN: token.viewer };
  const words = ["dev", "--data-dir", folder, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
  const child = spawn(binary, words, { env: environment, stdio: ["ignore", "pipe", "inherit"] });
  const said = [];
  const up = new Promise((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`the broker ended with ${code}:\n${said.join("\n")}`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      said.push(line);
      const text = said.join("\n");
      const http = /http:\/\/(127\.0\.0\.1:\d+)\/metrics/.exec(text);
      const agents = /POSTBELL_URL=tcp:\/\/127\.0\.0\.1:(\d+)/.exec(text);
      const database = /psql '(postgres:[^']+)'/.exec(text);
      if (http && agents && database) resolve({ http: `http://${http[1]}`, port: Number(agents[1]), database: database[1] });
    });
  });
  const addresses = await up;
  child.removeAllListeners("exit");
  return new Mesh(child, folder, addresses);
}

class Mesh {
  constructor(child, folder, { http, port, database }) {
    Object.assign(this, { child, folder, http, port, database });
    this.agents = new Map();
  }

  async sql(text) {
    const { stdout } = await run("psql", [this.database, "-v", "ON_ERROR_STOP=1", "-qAt", "-c", text]);
    return stdout.trim();
  }

  /** Waits until a query says t. */
  async until(query) {
    const end = Date.now() + PATIENCE_MS;
    while ((await this.sql(query)) !== "t") {
      if (Date.now() > end) throw new Error(`never true: ${query}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Registers agents, `[name, environment, type]`. */
  async register(agents) {
    const rows = agents.map(([name, environment, type]) => {
      const values = [name, name, type ?? "worker", environment].map((text) => `'${text.replaceAll("'", "''")}'`);
      return `(${values.join(", ")}, 'offline', '\\x${createHash("sha256").update(secret(name)).digest("hex")}', now())`;
    });
    await this.sql(`insert into agent_registry (agent_id, agent_name, agent_type, environment, status, token_hash, token_set_at) values ${rows.join(", ")}`);
  }

  /** Connects one. `handle` gets each message and gives what to answer. */
  async connect(name, handle = (message) => ({ op: "ack", tag: message.tag })) {
    const socket = createConnection(this.port, "127.0.0.1");
    const say = (frame) => socket.writable && socket.write(`${JSON.stringify(frame)}\n`);
    const welcome = new Promise((resolve, reject) => {
      socket.once("error", reject);
      createInterface({ input: socket }).on("line", (line) => {
        const frame = JSON.parse(line);
        if (frame.op === "welcome") resolve();
        if (frame.op === "ping") say({ op: "pong" });
        if (frame.op === "error") reject(new Error(line));
        if (frame.op === "msg") Promise.resolve(handle(frame)).then((answer) => answer && say(answer));
      });
    });
    say({ op: "hello", agent: name, token: secret(name), client: "page test", window: 8 });
    await welcome;
    socket.removeAllListeners("error");
    // A socket that the test's broker ends is ended here too.
    socket.on("error", () => {});
    this.agents.set(name, { socket, say });
  }

  send(from, to, type, priority, payload = { n: randomUUID() }) {
    this.agents.get(from).say({ op: "send", to, type, priority, payload });
  }

  leave(name) {
    this.agents.get(name)?.socket.destroy();
    this.agents.delete(name);
  }

  /** Nobody is left, and nothing. */
  async clear() {
    for (const name of [...this.agents.keys()]) this.leave(name);
    // Agents that only the registry says are here will not leave by themselves.
    await this.until("select count(*) = 0 from agent_registry where status = 'online' and last_heartbeat < now()");
    await this.sql("truncate agent_messages; delete from agent_registry");
  }

  async stop() {
    for (const name of [...this.agents.keys()]) this.leave(name);
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    if (this.child.exitCode === null) {
      this.child.kill("SIGTERM");
      await ended;
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

const secret = (name) => `pb_of_a_test_${name}`;
