// The scenes in which the page is looked at: each makes the mesh so, and leaves it so.

const pick = (list) => list[Math.floor(Math.random() * list.length)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const FEW = [
  ["orchestrator", "railway", "orchestrator"],
  ["validation-agent", "railway"],
  ["report-writer", "railway"],
  ["collector", "pc"],
  ["nightly-report", "github"],
];

const MANY = [
  ["orchestrator", "railway", "orchestrator"],
  ...["validation-agent", "report-writer", "address-matcher", "deduplicator", "mail-gateway", "geocoder"].map((name) => [name, "railway"]),
  ...["collector-north", "collector-south", "collector-east", "collector-west", "scraper-c12", "scraper-c14", "scraper-c19"].map((name) => [name, "pc"]),
  ...["nightly-report", "weekly-audit", "schema-check"].map((name) => [name, "github"]),
  ...["triage", "summariser", "translator"].map((name) => [name, "edge-frankfurt"]),
];

const TYPES = ["command", "query", "response", "data", "data", "alert"];

/** Nobody is registered. */
export async function empty(mesh) {
  await mesh.clear();
}

/** A few agents that are connected and have nothing to do. */
export async function idle(mesh) {
  await mesh.clear();
  await mesh.register(FEW);
  for (const [name] of FEW) await mesh.connect(name);
}

/** Twenty agents at work. Gives a function that stops it. */
export async function busy(mesh) {
  await mesh.clear();
  await mesh.register(MANY);
  for (const [name] of MANY) {
    await mesh.connect(name, async (message) => {
      await sleep(20 + Math.random() * 400);
      if (message.type === "query" && message.from !== name) mesh.agents.has(name) && mesh.send(name, message.from, "response", 5);
      return { op: "ack", tag: message.tag };
    });
  }
  let on = true;
  const names = MANY.map(([name]) => name);
  const work = (async () => {
    while (on) {
      const from = pick(names);
      const to = pick(names);
      if (from !== to && mesh.agents.has(from)) mesh.send(from, to, pick(TYPES), 1 + Math.floor(Math.random() * 9));
      await sleep(30);
    }
  })();
  return async () => {
    on = false;
    await work;
    await sleep(600);
  };
}

/** Agents are away while messages wait, some are old, some dead, and one name is misspelled. */
export async function onFire(mesh) {
  const stop = await busy(mesh);
  await sleep(1_500);
  await stop();
  for (const name of ["collector-north", "scraper-c12", "weekly-audit", "translator"]) mesh.leave(name);
  await mesh.until("select count(*) = 4 from agent_registry where status = 'offline'");
  const hostile = `'{"note": "<img src=x onerror=alert(1)>", "county": "c12"}'`;
  const insert = (to, n, more = "") =>
    mesh.sql(`insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority, created_at)
              select 'orchestrator', '${to}', 'command', ${hostile}, 1 + i % 7, now() - interval '7 minutes' * (i % 3) ${more} from generate_series(1, ${n}) i`);
  await insert("collector-north", 48);
  await insert("scraper-c12", 7);
  await insert("translator", 1);
  await insert("validaton-agent", 3);
  const reasons = ["no such county: c99", "HTTP 503 from https://example.org/geocode", "<script>alert('reason')</script> is no JSON"];
  for (const [index, to] of ["geocoder", "validation-agent", "mail-gateway"].entries()) {
    await mesh.sql(`
      with m as (insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority, status, created_at)
                 select 'orchestrator', '${to}', 'data', ${hostile}, 5, 'failed', now() - interval '19 minutes' from generate_series(1, 4) returning message_id)
      insert into postbell.deliveries (message_id, inbox, priority, state, dead_at, attempt, last_error)
      select message_id, '${to}', 5, 'dead', now() - interval '11 minutes', 10, '${reasons[index].replaceAll("'", "''")}' from m`);
  }
  // One that is connected and does not keep up: eight are with it, the others wait.
  mesh.leave("summariser");
  await mesh.connect("summariser", () => null);
  await insert("summariser", 30);
  await mesh.sql("update agent_registry set enabled = false where agent_id = 'schema-check'");
  return async () => {};
}

/** Three hundred agents in four environments; some of them away. Only the registry says that the others are here. */
export async function large(mesh) {
  await mesh.clear();
  await mesh.sql(`
    insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat)
    select 'worker-' || lpad(i::text, 3, '0'), 'w', 'worker', (array['railway', 'pc', 'github', 'edge'])[1 + (i % 7) % 4],
           case when i % 23 = 0 then 'offline' else 'online' end, now() + interval '1 hour'
    from generate_series(1, 300) i`);
  await mesh.sql(`
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
    select 'worker-001', 'worker-' || lpad((23 * (1 + i % 3))::text, 3, '0'), 'data', '{}' from generate_series(1, 12) i`);
}
