//! `drain`: 200,000 waiting messages, and one agent that takes them.

use std::sync::Arc;
use std::time::Instant;

use super::Spec;
use crate::agents::{Agent, register, wait_until_settled};
use crate::bench::{Bench, Found, line, linear};
use crate::ledger::Ledger;
use crate::load::fill;
use crate::report::Better;
use crate::stage::Sql;

const WINDOW: u32 = 1_000;
/// Rows in one statement of the floor.
const BATCH: i64 = 500;

pub(crate) const SPEC: Spec = Spec {
    name: "drain",
    about: "How fast 200,000 waiting messages reach one agent that acknowledges each, beside plain SQL that reads and \
            settles the same rows.",
    method: "The floor reads the rows of its inbox in batches of 500, then deletes the deliveries and marks the messages \
             processed by one statement, one transaction a batch, on one connection: no broker, no agent. Then an agent \
             (window 1,000) takes as many rows of another inbox from the broker, acknowledging each by itself; the clock \
             stops when the last one is settled in the table. The floor and the broker take turns; ratios are taken \
             within each round.",
    run: |bench| Box::pin(run(bench)),
};

const READ: &str = "
    select d.delivery_id, d.attempt, d.message_id, d.priority, m.from_agent_id, m.message_type, m.created_at,
           m.payload::text
    from postbell.deliveries d join agent_messages m using (message_id)
    where d.inbox = $1 and d.priority = 5 and d.state = 'ready' and d.delivery_id > $2
    order by d.delivery_id limit $3";
const SETTLE: &str = "
    with settled as (
      delete from postbell.deliveries d using unnest($1::bigint[], $2::smallint[]) as a (delivery_id, attempt)
      where d.delivery_id = any (array[a.delivery_id]) and d.attempt = a.attempt
      returning d.message_id
    )
    update agent_messages m set status = 'processed', processed_at = now(), delivered_at = now()
    from settled s where m.message_id = any (array[s.message_id])";

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let (rounds, messages) = (bench.size(3, 1), bench.size(200_000, 5_000));
    let names = register(&sql, "agent", rounds).await?;
    let floors = register(&sql, "floor", rounds).await?;
    let broker = bench.stage.broker(bench.database).await?;
    let raw = floor_connection(bench).await?;

    let (mut floor, mut ours, mut ratios, mut memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let ledger = Arc::new(Ledger::new(messages));
        bench.step("filling", round * 3, rounds * 3);
        fill(&sql, &floors[round], 0..messages, &Ledger::new(messages)).await?;
        fill(&sql, &names[round], 0..messages, &ledger).await?;
        sql.batch_execute("vacuum analyze agent_messages, postbell.deliveries").await?;
        sql.batch_execute("checkpoint").await?;

        bench.step("plain SQL", round * 3 + 1, rounds * 3);
        floor.push(messages as f64 / by_sql(&raw, &floors[round]).await?);
        bench.step("through the broker", round * 3 + 2, rounds * 3);
        broker.process.forget_peak();
        let began = Instant::now();
        let agent = Agent::start(&broker, &names[round], WINDOW, &ledger, (1, 0)).await?;
        ledger.wait_for(messages).await;
        wait_until_settled(&sql, &names[round]).await?;
        let seconds = began.elapsed().as_secs_f64();
        ours.push(messages as f64 / seconds);
        ratios.push(ours[round] / floor[round]);
        memory.extend(broker.process.memory_peak_mb());
        agent.stop().await;
        check_status(&sql, &names[round], messages).await?;
        found.count(ledger.count()?);
        if round + 1 == rounds {
            flow(&mut found, &ledger, messages, began);
        }
    }
    broker.stop().await?;
    found.measure("plain SQL", "msg/s", Better::Higher, floor);
    found.measure("broker", "msg/s", Better::Higher, ours);
    let ratio = found.measure("broker / plain SQL", "", Better::Higher, ratios);
    found.at_least("drain: ≥ 0.8 of the raw SQL floor, each message acknowledged by itself", ratio, 0.8, "");
    if !memory.is_empty() {
        found.measure("broker's memory, peak", "MB", Better::Lower, memory);
    }
    Ok(found)
}

/// The floor's connection, with the settings that a broker's connection has: each statement walks one index.
pub(super) async fn floor_connection(bench: &Bench<'_>) -> anyhow::Result<Sql> {
    let raw = bench.database.sql().await?;
    raw.batch_execute(
        "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; \
         set plan_cache_mode = force_generic_plan; set postbell.broker = on",
    )
    .await?;
    Ok(raw)
}

/// How many seconds it takes to read and settle all rows of an inbox.
pub(super) async fn by_sql(sql: &Sql, inbox: &str) -> anyhow::Result<f64> {
    let (read, settle) = (sql.prepare(READ).await?, sql.prepare(SETTLE).await?);
    let began = Instant::now();
    let mut above = 0_i64;
    loop {
        let rows = sql.query(&read, &[&inbox, &above, &BATCH]).await?;
        let Some(last) = rows.last() else { break };
        above = last.get(0);
        let (ids, attempts): (Vec<i64>, Vec<i16>) =
            rows.iter().map(|r| (r.get::<_, i64>(0), r.get::<_, i16>(1))).unzip();
        sql.execute(&settle, &[&ids, &attempts]).await?;
    }
    Ok(began.elapsed().as_secs_f64())
}

async fn check_status(sql: &Sql, inbox: &str, messages: usize) -> anyhow::Result<()> {
    let asked = "select count(*) from agent_messages where to_agent_id = $1 and status = 'processed' \
                 and processed_at is not null";
    let processed: i64 = sql.query_one(asked, &[&inbox]).await?.get(0);
    anyhow::ensure!(processed == messages as i64, "{processed} of {messages} messages are marked processed");
    Ok(())
}

fn flow(found: &mut Found, ledger: &Ledger, messages: usize, began: Instant) {
    const BIN_S: f64 = 0.1;
    let mut bins = std::collections::BTreeMap::<usize, usize>::new();
    for at in (0..messages).filter_map(|n| ledger.received_at(n)) {
        *bins.entry((at.saturating_duration_since(began).as_secs_f64() / BIN_S) as usize).or_default() += 1;
    }
    let points = bins.into_iter().map(|(bin, n)| ((bin + 1) as f64 * BIN_S, n as f64 / BIN_S)).collect();
    found.plot(
        "Received over time, last round",
        linear("seconds"),
        linear("messages a second"),
        vec![line("received", points)],
    );
}
