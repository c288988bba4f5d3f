//! `idle`: the cost of a broker while nothing happens.

use std::time::Duration;

use anyhow::Context;

use super::Spec;
use crate::agents::{WINDOW, connect, register};
use crate::bench::{Bench, Found};
use crate::report::Better;

pub(crate) const SPEC: Spec = Spec {
    name: "idle",
    about: "The cost of a broker while nothing happens: memory, processor, statements on the database.",
    method: "One agent is connected, nothing is sent. After a pause in which the broker falls asleep, its processor \
             time (all threads, /proc) and the transactions that the database counts (pg_stat_database) are taken \
             over the whole time; each of the broker's statements is a transaction. Postgres also counts a transaction for \
             each notification that the listening connection takes: the canaries, which are taken off, as is the load \
             test's own question.",
    run: |bench| Box::pin(run(bench)),
};

/// How many canaries came back.
const CANARIES: &str = "postbell_bell_roundtrip_seconds_count";

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let names = register(&sql, "agent", 1).await?;
    let broker = bench.stage.broker(bench.database).await?;
    let (client, deliveries) = connect(&broker, &names[0], WINDOW).await?;
    let lasting = bench.lasting(30_000, 3_000);
    bench.step("falling asleep", 0, 2);
    tokio::time::sleep(Duration::from_secs(2)).await;

    bench.step("watching", 1, 2);
    let counted = "select pg_stat_clear_snapshot(), xact_commit from pg_stat_database where datname = current_database()";
    let statement = sql.prepare(counted).await?;
    let before: i64 = sql.query_one(&statement, &[]).await?.get(1);
    let canaries_before = broker.metric(CANARIES).await?;
    let cpu_before = broker.process.cpu_seconds();
    tokio::time::sleep(lasting).await;
    let cpu_after = broker.process.cpu_seconds();
    let after: i64 = sql.query_one(&statement, &[]).await?.get(1);
    let canaries = broker.metric(CANARIES).await? - canaries_before;
    let seconds = lasting.as_secs_f64();

    let statements = found.measure(
        "statements on the database",
        "1/s",
        Better::Lower,
        vec![((after - before - 1) as f64 - canaries) / seconds],
    );
    found.at_most("idle broker: statements a second on the database ≤ 4", statements, 4.0, "1/s");
    if let (Some(from), Some(to)) = (cpu_before, cpu_after) {
        let share = found.measure("processor", "%", Better::Lower, vec![(to - from) / seconds * 100.0]);
        found.at_most("idle broker: processor ≤ 0.5 % of a core", share, 0.5, "%");
        let memory = broker.process.memory_mb().context("the broker's memory cannot be read")?;
        let memory = found.measure("resident memory", "MB", Better::Lower, vec![memory]);
        found.at_most("idle broker: resident memory ≤ 20 MB", memory, 20.0, "MB");
    } else {
        found.left_out("this system does not tell a process's memory and time")?;
    }
    client.close().await;
    drop(deliveries);
    broker.stop().await?;
    Ok(found)
}
