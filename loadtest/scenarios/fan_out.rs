//! `fan-out`: one broadcast, a thousand agents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Spec;
use crate::agents::{Agent, WINDOW, register, stop_all, wait_until_settled};
use crate::bench::{Bench, Found};
use crate::latency::distribution;
use crate::ledger::Ledger;
use crate::load::{PAYLOAD_BYTES, Producer, Table, payload};
use crate::report::Better;

const BETWEEN: Duration = Duration::from_millis(300);

pub(crate) const SPEC: Spec = Spec {
    name: "fan-out",
    about: "How long one broadcast takes to reach every one of 1,000 agents.",
    method: "One INSERT without a recipient, on an idle mesh with 1,000 connected agents; each acknowledges. The time \
             runs from the answer to the COMMIT, and ends when the last agent has the message; the distribution is that \
             of all agents, from the moment before the INSERT.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let (audience, broadcasts) = (bench.size(1_000, 50), bench.size(20, 2));
    let names = register(&sql, "agent", audience).await?;
    let ledger = Arc::new(Ledger::new(audience * broadcasts));
    let broker = bench.stage.broker(bench.database).await?;
    bench.step("connecting", 0, broadcasts + 1);
    let agents = Agent::start_audience(&broker, &names, WINDOW, &ledger).await?;
    let producer = Producer::connect(bench.database, Table::Messages).await?;
    let (mut slowest, mut inserts) = (Vec::new(), Vec::new());
    for n in 0..broadcasts {
        bench.step("broadcasting", n + 1, broadcasts + 1);
        tokio::time::sleep(BETWEEN).await;
        let intended = Instant::now();
        producer.insert(None, &payload(n, PAYLOAD_BYTES), 5).await?;
        let committed = Instant::now();
        let lines = n * audience..(n + 1) * audience;
        ledger.commit_all(lines.clone(), intended);
        ledger.wait_for(lines.end).await;
        let last = lines.filter_map(|line| ledger.received_at(line)).max().unwrap_or(intended);
        slowest.push(last.saturating_duration_since(committed).as_secs_f64() * 1e3);
        inserts.push((committed - intended).as_secs_f64() * 1e3);
    }
    wait_until_settled(&sql, "agent-%").await?;
    stop_all(agents).await;
    broker.stop().await?;
    let worst = slowest.iter().copied().fold(0.0, f64::max);
    found.at_most(
        "fan-out: all 1,000 agents have it within 100 ms of COMMIT, in the slowest broadcast",
        worst,
        100.0,
        "ms",
    );
    found.measure("COMMIT to the last agent", "ms", Better::Lower, slowest);
    found.measure("the INSERT itself", "ms", Better::Lower, inserts);
    let latencies = (0..audience * broadcasts).filter_map(|line| ledger.latency(line));
    found.latency(distribution("from before the INSERT to each agent", latencies)?);
    found.count(ledger.count()?);
    Ok(found)
}
