//! `burst`: 50,000 messages in a second, into an idle mesh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::Spec;
use crate::agents::{Agent, WINDOW, register, stop_all, wait_until_settled};
use crate::bench::{Bench, Found, line, linear};
use crate::latency::distribution;
use crate::ledger::Ledger;
use crate::load::{PAYLOAD_BYTES, insert_many};
use crate::report::Better;

const WRITERS: usize = 16;
const ROWS: usize = 100;
const AGENTS: usize = 10;

pub(crate) const SPEC: Spec = Spec {
    name: "burst",
    about: "Whether 50,000 messages inserted within one second into an idle mesh all arrive, and when the last one does.",
    method: "16 writers insert 100 rows a statement, each statement at its intended moment, evenly over one second, for \
             10 agents that acknowledge each message. Latency runs from the intended moment of the statement.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let (rounds, messages) = (bench.size(3, 1), bench.size(50_000, 5_000));
    let names = register(&sql, "agent", AGENTS).await?;
    let ledger = Arc::new(Ledger::new(messages * rounds));
    let broker = bench.stage.broker(bench.database).await?;
    let agents = Agent::start_all(&broker, &names, WINDOW, &ledger).await?;
    let writers = try_join_all((0..WRITERS).map(|_| bench.database.sql())).await?;
    let mut slowest = Vec::new();
    for round in 0..rounds {
        bench.step("waiting for the broker to sleep", round * 2, rounds * 2);
        tokio::time::sleep(bench.lasting(1_500, 500)).await;
        bench.step("the burst", round * 2 + 1, rounds * 2);
        let statements = messages / ROWS;
        let began = Instant::now() + Duration::from_millis(5);
        let work = writers.iter().enumerate().map(|(i, sql)| {
            let (names, ledger) = (&names, &ledger);
            async move {
                for statement in (i..statements).step_by(WRITERS) {
                    let intended =
                        began + Duration::from_secs(1).mul_f64(statement as f64 / statements as f64);
                    tokio::time::sleep_until(intended.into()).await;
                    let first = round * messages + statement * ROWS;
                    let lines = first..first + ROWS;
                    lines.clone().for_each(|n| ledger.intend(n, intended));
                    insert_many(sql, names, lines.clone(), PAYLOAD_BYTES).await?;
                    lines.for_each(|n| ledger.commit(n));
                }
                anyhow::Ok(())
            }
        });
        try_join_all(work).await?;
        ledger.wait_for((round + 1) * messages).await;
        let lines = round * messages..(round + 1) * messages;
        let last = lines.clone().filter_map(|n| ledger.latency(n)).max().unwrap_or_default();
        slowest.push(last.as_secs_f64() * 1e3);
        if round + 1 == rounds {
            let step = (messages / 500).max(1);
            let points = lines.step_by(step).filter_map(|n| Some((n, ledger.latency(n)?)));
            let points =
                points.map(|(n, l)| ((n - round * messages) as f64 / messages as f64, l.as_secs_f64() * 1e3));
            found.plot(
                "Latency of the last burst, in the order of the statements",
                linear("seconds since its beginning"),
                linear("ms"),
                vec![line("from the intended moment to the agent", points.collect())],
            );
        }
    }
    wait_until_settled(&sql, "agent-%").await?;
    stop_all(agents).await;
    broker.stop().await?;
    let latencies = (0..messages * rounds).filter_map(|n| ledger.latency(n));
    let all = found.latency(distribution("from the intended moment to the agent", latencies)?);
    found.at_most("burst: no message later than 5 s", all.at(100.0), 5_000.0, "ms");
    found.measure("latest message of each burst", "ms", Better::Lower, slowest);
    let count = ledger.count()?;
    found.at_most("burst: all delivered", count.lost as f64, 0.0, "lost");
    found.count(count);
    Ok(found)
}
