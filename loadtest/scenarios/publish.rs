//! `publish`: messages that agents send through the broker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use postbell_client::message::MessageType;
use postbell_client::{Client, Outgoing};
use serde_json::value::RawValue;

use super::Spec;
use crate::agents::{connect, register};
use crate::bench::{Bench, Found};
use crate::load::{Numbers, PAYLOAD_BYTES, insert_many, payload};
use crate::report::{Better, Count};
use crate::stage::Sql;

const CLIENTS: usize = 16;
/// At most so many messages of one client wait for their `sent`.
const OUTSTANDING: usize = 256;
/// Rows in one INSERT of the floor.
const ROWS: usize = 100;

pub(crate) const SPEC: Spec = Spec {
    name: "publish",
    about: "How many messages a second 16 agents send through the broker, each answered after its COMMIT, beside plain \
            SQL that inserts 100 rows a statement.",
    method: "Each client keeps 256 messages unanswered, for agents that are away. The floor is one connection that \
             inserts 100 rows by one statement, with the trigger. Both take turns; ratios are taken within each round. \
             At the end the table is asked for every message that was answered `sent`: each must be there once, with \
             its delivery.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let away = register(&sql, "away", 10).await?;
    let names = register(&sql, "sender", CLIENTS).await?;
    let broker = bench.stage.broker(bench.database).await?;
    let (rounds, lasting) = (bench.size(3, 1), bench.lasting(4_000, 400));
    let mut clients = Vec::new();
    for name in &names {
        clients.push(connect(&broker, name, 0).await?);
    }
    let (numbers, sent) = (Numbers::up_to(usize::MAX), AtomicU64::new(0));
    let (mut floor, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        bench.step("plain SQL", round * 2, rounds * 2);
        floor.push(by_sql(&sql, &away, lasting).await?);
        bench.step("through the broker", round * 2 + 1, rounds * 2);
        let began = Instant::now();
        let before = sent.load(Ordering::Relaxed);
        let work = clients.iter().map(|(client, _)| send(client, &away, began + lasting, &numbers, &sent));
        try_join_all(work).await?;
        ours.push((sent.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64());
        ratios.push(ours[round] / floor[round]);
    }
    found.measure("plain SQL, 100 rows a statement", "msg/s", Better::Higher, floor);
    found.measure("broker", "msg/s", Better::Higher, ours);
    let ratio = found.measure("broker / plain SQL", "", Better::Higher, ratios);
    found.at_least("publish: ≥ 0.5 of the raw SQL rate of 100-row inserts with trigger", ratio, 0.5, "");
    for (client, deliveries) in clients {
        client.close().await;
        drop(deliveries);
    }
    broker.stop().await?;
    found.count(balance(&sql, sent.into_inner()).await?);
    Ok(found)
}

/// Rows a second that plain SQL inserts.
async fn by_sql(sql: &Sql, away: &[String], lasting: Duration) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut rows = 0;
    while began.elapsed() < lasting {
        insert_many(sql, away, rows..rows + ROWS, PAYLOAD_BYTES).await?;
        rows += ROWS;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

async fn send(
    client: &Client,
    away: &[String],
    until: Instant,
    numbers: &Numbers,
    sent: &AtomicU64,
) -> anyhow::Result<()> {
    let mut unanswered = FuturesUnordered::new();
    while Instant::now() < until {
        while unanswered.len() < OUTSTANDING {
            let Some(n) = numbers.take() else { break };
            let body = RawValue::from_string(payload(n, PAYLOAD_BYTES))?;
            let message = Outgoing::new(&away[n % away.len()], MessageType::Data, &body)?;
            unanswered.push(client.submit(message).await?.committed());
        }
        if let Some(answer) = unanswered.next().await {
            answer?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
    while let Some(answer) = unanswered.next().await {
        answer?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Every message that was answered must be in the table once, with one delivery that waits.
async fn balance(sql: &Sql, sent: u64) -> anyhow::Result<Count> {
    let asked = "select count(distinct m.payload ->> 'n'), count(*) \
                 from agent_messages m join postbell.deliveries d using (message_id) \
                 where m.from_agent_id like 'sender-%'";
    let row = sql.query_one(asked, &[]).await?;
    let (there, rows) = (row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64);
    Ok(Count { sent, received: there, lost: sent.saturating_sub(there), duplicated: rows - there })
}
