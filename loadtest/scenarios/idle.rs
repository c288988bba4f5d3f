//! `idle`: the cost of a broker while nothing happens.

use anyhow::Context;

use super::Spec;
use crate::agents::{WINDOW, connect, register};
use crate::bench::{Bench, Found};
use crate::report::Better;

pub(crate) const SPEC: Spec = Spec {
    name: "idle",
    about: "The cost of a broker while nothing happens: memory, processor, statements on the database.",
    method: "One agent is connected, nothing is sent. After a pause in which the broker comes to rest, its processor \
             time (all threads, /proc) and the transactions that the database counts (pg_stat_database) are taken \
             in rounds of ten seconds; at rest each of the broker's statements is a transaction. The load test's own questions \
             are taken off, and the median leaves out the round of an autovacuum. Canaries are not among them: the listening \
             connection tells its transactions when it ends.",
    run: |bench| Box::pin(run(bench)),
};

/// Each is long enough for one heartbeat of presence.
const ROUNDS: usize = 6;

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let names = register(&sql, "agent", 1).await?;
    let broker = bench.stage.broker(bench.database).await?;
    let (client, deliveries) = connect(&broker, &names[0], WINDOW).await?;
    let round = bench.lasting(10_000, 1_000);
    bench.step("coming to rest", 0, ROUNDS + 1);
    // A broker rests 20 s after the last thing that happened.
    tokio::time::sleep(bench.lasting(30_000, 2_000)).await;

    let counted = "select pg_stat_clear_snapshot(), xact_commit from pg_stat_database where datname = current_database()";
    let statement = sql.prepare(counted).await?;
    let mut last: i64 = sql.query_one(&statement, &[]).await?.get(1);
    let cpu_before = broker.process.cpu_seconds();
    let mut rounds = Vec::new();
    for n in 1..=ROUNDS {
        bench.step("watching", n, ROUNDS + 1);
        tokio::time::sleep(round).await;
        let now: i64 = sql.query_one(&statement, &[]).await?.get(1);
        rounds.push((now - last - 1) as f64 / round.as_secs_f64());
        last = now;
    }
    let cpu_after = broker.process.cpu_seconds();
    let seconds = round.as_secs_f64() * ROUNDS as f64;

    let statements = found.measure("statements on the database", "1/s", Better::Lower, rounds);
    found.at_most("idle broker: statements a second on the database ≤ 2", statements, 2.0, "1/s");
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
