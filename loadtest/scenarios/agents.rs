//! `agents`: the cost of connected agents, most of which have nothing to do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::Spec;
use crate::agents::{Agent, register, stop_all, wait_until_settled};
use crate::bench::{Bench, Found, limit, line, logarithmic};
use crate::latency::distribution;
use crate::ledger::Ledger;
use crate::load::{PAYLOAD_BYTES, Producer, Table, moments, payload};
use crate::report::Better;

const STEPS: &[usize] = &[1, 10, 100, 1_000, 10_000];
/// The number of agents that the figure compares with.
const FEW: usize = 100;
const EVERY: Duration = Duration::from_millis(20);
/// The window of an agent that waits for one message at a time.
const WINDOW: u32 = 8;

pub(crate) const SPEC: Spec = Spec {
    name: "agents",
    about: "The cost of 1 to 10,000 connected agents in memory and latency, while one in a hundred gets messages.",
    method: "Agents connect step by step and stay. At each step one message each 20 ms goes in turn to one agent in a \
             hundred (at least one); latency runs from the intended moment of its INSERT. All clients heartbeat as by \
             default, and live in the load test's own process on the same cores.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let steps: &[usize] = if bench.quick { &[1, 100, 200] } else { STEPS };
    let most = steps[steps.len() - 1];
    let messages = bench.size(500, 50);
    let names = register(&sql, "agent", most).await?;
    let ledger = Arc::new(Ledger::new(messages * steps.len()));
    let broker = bench.stage.broker(bench.database).await?;
    let producer = Producer::connect(bench.database, Table::Messages).await?;
    let (mut agents, mut memory, mut p50s, mut p99s, mut processor) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (i, &count) in steps.iter().enumerate() {
        bench.step(&format!("connecting {count}"), i * 2, steps.len() * 2);
        agents.extend(Agent::start_all(&broker, &names[agents.len()..count], WINDOW, &ledger).await?);
        tokio::time::sleep(bench.lasting(3_000, 200)).await;
        bench.step(&format!("{count} agents"), i * 2 + 1, steps.len() * 2);
        let active: Vec<&String> = names[..count].iter().step_by(100).collect();
        let cpu_before = broker.process.cpu_seconds();
        let began = std::time::Instant::now();
        let mut told = moments(messages, EVERY);
        for n in i * messages..(i + 1) * messages {
            let at = told.recv().await.context("the clock stopped")?;
            ledger.intend(n, at);
            producer.insert(Some(active[n % active.len()]), &payload(n, PAYLOAD_BYTES), 5).await?;
            ledger.commit(n);
        }
        ledger.wait_for((i + 1) * messages).await;
        let latencies = (i * messages..(i + 1) * messages).filter_map(|n| ledger.latency(n));
        let latency = found.latency(distribution(&format!("{count} agents"), latencies)?);
        p50s.push((count as f64, latency.at(50.0)));
        p99s.push((count as f64, latency.at(99.0)));
        if let (Some(mb), Some(from), Some(to)) =
            (broker.process.memory_mb(), cpu_before, broker.process.cpu_seconds())
        {
            memory.push((count as f64, mb));
            processor.push((count as f64, (to - from) / began.elapsed().as_secs_f64() * 100.0));
        }
    }
    wait_until_settled(&sql, "agent-%").await?;
    stop_all(agents).await;
    broker.stop().await?;
    judge(&mut found, &p99s, &memory, most);
    let (from, until) = (steps[0] as f64, most as f64);
    found.plot(
        "Latency of the active ones",
        logarithmic("connected agents"),
        logarithmic("ms"),
        vec![line("p50", p50s), line("p99", p99s)],
    );
    found.plot(
        "Broker's memory",
        logarithmic("connected agents"),
        logarithmic("MB"),
        vec![line("resident", memory), limit("250 MB", 250.0, from, until)],
    );
    found.plot(
        "Broker's processor",
        logarithmic("connected agents"),
        crate::bench::linear("% of a core"),
        vec![line("processor", processor)],
    );
    found.count(ledger.count()?);
    Ok(found)
}

fn judge(found: &mut Found, p99s: &[(f64, f64)], memory: &[(f64, f64)], most: usize) {
    let at = |points: &[(f64, f64)], agents: usize| points.iter().find(|p| p.0 == agents as f64).map(|p| p.1);
    if let (Some(few), Some(many)) = (at(p99s, FEW), at(p99s, most)) {
        found.at_most(
            "agents: p99 of the active ones with 10,000 ≤ 2 × that with 100",
            many,
            few * 2.0,
            "ms",
        );
    }
    if let Some(mb) = at(memory, most) {
        found.at_most("agents: broker's resident memory with 10,000 idle sessions ≤ 250 MB", mb, 250.0, "MB");
    }
    for (agents, mb) in memory {
        found.measure(&format!("memory with {agents} agents"), "MB", Better::Lower, vec![*mb]);
    }
    for (agents, ms) in p99s {
        found.measure(&format!("p99 with {agents} agents"), "ms", Better::Lower, vec![*ms]);
    }
}
