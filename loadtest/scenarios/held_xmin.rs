//! `held-xmin`: a transaction that stays open while a million messages pass.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;

use super::Spec;
use crate::agents::{Agent, register, wait_until_settled};
use crate::bench::{Bench, Found, line, linear};
use crate::ledger::Ledger;
use crate::load::{Numbers, PAYLOAD_BYTES, insert_many};
use crate::report::Better;

const WRITERS: usize = 4;
const ROWS: usize = 100;
const TENTHS: usize = 10;
const WINDOW: u32 = 1_000;
/// The writers wait while so many are on their way, so that the rate is that of the delivery.
const ON_THE_WAY_MAX: usize = 5_000;

pub(crate) const SPEC: Spec = Spec {
    name: "held-xmin",
    about: "Whether the rate holds while a transaction elsewhere stays open, so that Postgres can remove nothing that \
            was deleted since, and a million messages pass.",
    method: "One connection takes a transaction id and a snapshot and stays idle in its transaction. Four writers insert \
             100 rows a statement, never more than 5,000 ahead of the agent, which acknowledges each message. The rate \
             is taken in each tenth of the messages, by their arrival.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let messages = bench.size(1_000_000, 20_000);
    let names = register(&sql, "agent", 1).await?;
    let ledger = Arc::new(Ledger::new(messages));
    let broker = bench.stage.broker(bench.database).await?;
    let agent = Agent::start(&broker, &names[0], WINDOW, &ledger, (1, 0)).await?;
    let holder = bench.database.sql().await?;
    holder
        .batch_execute("begin isolation level repeatable read; select pg_current_xact_id(), count(*) from agent_messages")
        .await?;
    let writers = try_join_all((0..WRITERS).map(|_| bench.database.sql())).await?;
    let numbers = Numbers::up_to(messages / ROWS);
    let began = Instant::now();
    let work = writers.iter().map(|sql| async {
        while let Some(statement) = numbers.take() {
            while ledger.committed() > ledger.received() + ON_THE_WAY_MAX {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            let lines = statement * ROWS..(statement + 1) * ROWS;
            let now = Instant::now();
            insert_many(sql, &names, lines.clone(), PAYLOAD_BYTES).await?;
            ledger.commit_all(lines, now);
            bench.step("messages pass", ledger.received(), messages);
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    ledger.wait_for(messages).await;
    wait_until_settled(&sql, &names[0]).await?;
    holder.batch_execute("rollback").await?;
    agent.stop().await;
    broker.stop().await?;
    rates(&mut found, &ledger, messages, began);
    found.count(ledger.count()?);
    Ok(found)
}

fn rates(found: &mut Found, ledger: &Ledger, messages: usize, began: Instant) {
    let mut arrivals: Vec<f64> = (0..messages)
        .filter_map(|n| ledger.received_at(n))
        .map(|at| at.saturating_duration_since(began).as_secs_f64())
        .collect();
    arrivals.sort_by(f64::total_cmp);
    let tenth = (arrivals.len() / TENTHS).max(1);
    let rates: Vec<f64> = arrivals
        .chunks_exact(tenth)
        .take(TENTHS)
        .map(|chunk| (chunk.len() - 1) as f64 / (chunk[chunk.len() - 1] - chunk[0]).max(1e-9))
        .collect();
    let points = rates.iter().enumerate().map(|(i, rate)| (((i + 1) * tenth) as f64, *rate)).collect();
    found.plot(
        "Rate while the transaction stays open",
        linear("messages delivered so far"),
        linear("messages a second"),
        vec![line("rate of each tenth", points)],
    );
    if let (Some(first), Some(last)) = (rates.first(), rates.last()) {
        found.at_least("held-xmin: rate in the last tenth ≥ 0.9 of that in the first", last / first, 0.9, "");
        found.measure("last tenth / first tenth", "", Better::Higher, vec![last / first]);
    }
    found.measure("rate of each tenth", "msg/s", Better::Higher, rates);
}
