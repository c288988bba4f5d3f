//! `reconnect`: a broker that crashes under thousands of agents, which all come back at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Spec;
use crate::agents::{Agent, register, stop_all, wait_until_settled};
use crate::bench::{Bench, Found, limit, line, linear};
use crate::ledger::Ledger;
use crate::report::Better;

const AGENTS: usize = 5_000;
const WINDOW: u32 = 8;
/// Sends each agent a message; all count from the moment of this one statement.
const SEND_TO_ALL: &str = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) \
                           select 'loadtest', 'agent-' || n, 'data', jsonb_build_object('n', $2::int + n) \
                           from generate_series(0, $1::int - 1) n";
const BACK_WITHIN: Duration = Duration::from_secs(10);

pub(crate) const SPEC: Spec = Spec {
    name: "reconnect",
    about: "How long it takes until 5,000 agents whose broker crashed are back at the next one.",
    method: "5,000 agents are connected when the broker is killed; a message is inserted for each while it is away, and the \
             next broker is started on the same port. An agent is back when it has its message. The clients wait and \
             jitter as by default; they live on the same cores.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let (agents, rounds) = (bench.size(AGENTS, 100), bench.size(3, 1));
    let names = register(&sql, "agent", agents).await?;
    let ledger = Arc::new(Ledger::new(agents * rounds));
    let mut broker = bench.stage.broker(bench.database).await?;
    bench.step("connecting", 0, rounds + 1);
    let connected = Agent::start_all(&broker, &names, WINDOW, &ledger).await?;

    let (mut last, mut processor, mut memory, mut back) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        bench.step("all come back", round + 1, rounds + 1);
        let ports = broker.crash().await?;
        let lines = round * agents..(round + 1) * agents;
        let intended = Instant::now();
        sql.execute(SEND_TO_ALL, &[&(agents as i32), &(lines.start as i32)]).await?;
        ledger.commit_all(lines.clone(), intended);
        broker = bench.stage.broker_at(bench.database, ports).await?;
        let ready = Instant::now();
        ledger.wait_for(lines.end).await;
        let mut seconds: Vec<f64> = lines
            .filter_map(|n| ledger.received_at(n))
            .map(|at| at.saturating_duration_since(ready).as_secs_f64())
            .collect();
        seconds.sort_by(f64::total_cmp);
        last.extend(seconds.last().copied());
        memory.extend(broker.process.memory_peak_mb());
        processor.extend(broker.process.cpu_seconds());
        if round == 0 {
            let share = |i: usize| (i + 1) as f64 / agents as f64 * 100.0;
            back = seconds
                .iter()
                .enumerate()
                .step_by(agents.div_ceil(200))
                .map(|(i, s)| (*s, share(i)))
                .collect();
        }
    }
    wait_until_settled(&sql, "agent-%").await?;
    stop_all(connected).await;
    broker.stop().await?;
    let slowest = last.iter().copied().fold(0.0, f64::max);
    found.measure("last agent back", "s", Better::Lower, last);
    found.measure("broker's processor until then, its start included", "s", Better::Lower, processor);
    found.measure("broker's peak of memory", "MB", Better::Lower, memory);
    found.at_most("reconnect: 5,000 agents are back within 10 s", slowest, BACK_WITHIN.as_secs_f64(), "s");
    found.plot(
        "Agents that are back",
        linear("s after the broker was ready"),
        linear("%"),
        vec![line("back", back), limit("all", 100.0, 0.0, slowest)],
    );
    found.count(ledger.count()?);
    Ok(found)
}
