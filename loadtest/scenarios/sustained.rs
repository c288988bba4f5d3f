//! `sustained`: 16 writers without a pause, and one agent that should keep up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Spec;
use crate::agents::{Agent, register};
use crate::bench::{Bench, Found, limit, line, linear, logarithmic, median};
use crate::latency::distribution;
use crate::ledger::Ledger;
use crate::load::{Numbers, Producer, Table, insert_at_full_speed, insert_at_rate, make_bare_table};
use crate::report::Better;

const WRITERS: usize = 16;
const WINDOW: u32 = 1_000;
/// Shares of the highest rate. The share that the figure is about comes three times, spread over the run: autovacuum
/// begins once a minute, and one visit of it must not be the answer.
const SHARES: &[f64] = &[0.8, 0.2, 0.4, 0.8, 0.6, 0.9, 0.8];
const SHARE_ASKED: f64 = 0.8;
/// How often the backlog is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) const SPEC: Spec = Spec {
    name: "sustained",
    about: "Whether delivery keeps up with 16 writers that insert one row a transaction without a pause, and what it \
            leaves them of the bare table's rate.",
    method: "Rounds of inserts into the bare table and into agent_messages take turns; in the second one agent \
             (window 1,000) receives and acknowledges every message. The backlog (committed and not yet received) is \
             looked at every 50 ms; its growth is the slope of a line through it after the first fifth of the round. \
             Then the writers insert at a fixed share of the highest rate, each at its intended moment: latency runs \
             from there.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    make_bare_table(&sql).await?;
    let to = register(&sql, "agent", 1).await?;
    let (rounds, lasting) = (bench.size(3, 1), bench.lasting(6_000, 500));
    // More lines than rows that two cores ever inserted here.
    let lines = (lasting * rounds as u32 * 4).as_secs() as usize * 40_000 + 100_000;
    let (ledger, numbers) = (Arc::new(Ledger::new(lines)), Numbers::up_to(lines));
    let broker = bench.stage.broker(bench.database).await?;
    let agent = Agent::start(&broker, &to[0], WINDOW, &ledger, (1, 0)).await?;
    let bare = Producer::connect_many(bench.database, Table::Bare, WRITERS).await?;
    let messages = Producer::connect_many(bench.database, Table::Messages, WRITERS).await?;

    let steps = rounds * 2 + SHARES.len();
    let (mut floor, mut ours, mut ratios, mut growths, mut samples) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        bench.step("bare table", round * 2, steps);
        floor.push(insert_at_full_speed(&bare, &to, lasting, &Numbers::up_to(usize::MAX), None).await?);
        bench.step("through the broker", round * 2 + 1, steps);
        let watch = tokio::spawn(backlog(ledger.clone(), lasting));
        ours.push(insert_at_full_speed(&messages, &to, lasting, &numbers, Some(&ledger)).await?);
        samples = watch.await?;
        ledger.wait_for(ledger.committed()).await;
        ratios.push(ours[round] / floor[round]);
        growths.push(growth(&samples) / ours[round]);
    }
    found.measure("inserted, bare table", "row/s", Better::Higher, floor);
    let highest = found.measure("inserted and delivered", "msg/s", Better::Higher, ours);
    let kept = found.measure("inserts / bare table", "", Better::Higher, ratios);
    let grows = found.measure("growth of the backlog / inserts", "", Better::Lower, growths);
    found.at_least("sustained: inserts ≥ 0.5 of the bare table's", kept, 0.5, "");
    found.at_most("sustained: the backlog grows by ≤ 1 % of what is inserted", grows, 0.01, "");
    flow(&mut found, &samples);

    // The latencies must not show the cost of rows that the floor left behind.
    sql.batch_execute("truncate bare_messages").await?;
    sql.batch_execute("vacuum agent_messages, postbell.deliveries").await?;
    sql.batch_execute("checkpoint").await?;
    let mut steps_found = Vec::new();
    for (i, share) in SHARES.iter().enumerate() {
        bench.step(&format!("at {:.0} %", share * 100.0), rounds * 2 + i, steps);
        let rate = highest * share;
        let used = insert_at_rate(&messages, &to, rate, lasting, &numbers, &ledger).await?;
        ledger.wait_for(ledger.committed()).await;
        let label = format!("step {}: at {:.0} % of the highest rate", i + 1, share * 100.0);
        let latency = found.latency(distribution(&label, used.filter_map(|n| ledger.latency(n)))?);
        steps_found.push((*share, rate, latency.at(50.0), latency.at(99.0)));
    }
    let [p50, p99] = judge(&mut found, &steps_found);
    let (from, until) = (p99[0].0, p99[p99.len() - 1].0);
    found.plot(
        "Latency against the offered rate",
        linear("messages offered a second"),
        logarithmic("ms"),
        vec![line("p50", p50), line("p99", p99), limit("50 ms", 50.0, from, until)],
    );
    found.count(ledger.count()?);
    agent.stop().await;
    broker.stop().await?;
    Ok(found)
}

/// Judges the steps, each a share, rate, p50 and p99. Returns the two curves, at each rate the median of its steps.
fn judge(found: &mut Found, steps: &[(f64, f64, f64, f64)]) -> [Vec<(f64, f64)>; 2] {
    let mut shares: Vec<f64> = SHARES.to_vec();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    let mut curves = [Vec::new(), Vec::new()];
    for share in shares {
        let here: Vec<_> = steps.iter().filter(|step| step.0 == share).collect();
        let p99s: Vec<f64> = here.iter().map(|step| step.3).collect();
        let (rate, p50s) = (here[0].1, here.iter().map(|step| step.2).collect::<Vec<_>>());
        curves[0].push((rate, median(&p50s)));
        curves[1].push((rate, median(&p99s)));
        if share == SHARE_ASKED {
            let p99 = found.measure("p99 at 80 % of the rate", "ms", Better::Lower, p99s);
            found.at_most("sustained: p99 from insert to agent ≤ 50 ms at 80 % of the rate", p99, 50.0, "ms");
        }
    }
    curves
}

/// A look at the ledger: seconds, committed, received.
type Sample = (f64, usize, usize);

async fn backlog(ledger: Arc<Ledger>, lasting: Duration) -> Vec<Sample> {
    let (began, before) = (Instant::now(), (ledger.committed(), ledger.received()));
    let mut samples = Vec::new();
    while began.elapsed() < lasting {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = (ledger.committed() - before.0, ledger.received() - before.1);
        samples.push((began.elapsed().as_secs_f64(), now.0, now.1));
    }
    samples
}

/// The messages a second by which the backlog grows: the slope of the line of least squares.
fn growth(samples: &[Sample]) -> f64 {
    let settled = &samples[samples.len() / 5..];
    let points: Vec<(f64, f64)> =
        settled.iter().map(|(t, sent, came)| (*t, *sent as f64 - *came as f64)).collect();
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let over: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let under: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// Plots the last round over time.
fn flow(found: &mut Found, samples: &[Sample]) {
    const BIN: usize = 4;
    let looks: Vec<&Sample> = samples.iter().step_by(BIN).collect();
    let rate = |of: fn(&Sample) -> usize| {
        looks
            .windows(2)
            .map(|w| (w[1].0, (of(w[1]) - of(w[0])) as f64 / (w[1].0 - w[0].0)))
            .collect::<Vec<_>>()
    };
    let lines = vec![line("inserted", rate(|s| s.1)), line("received", rate(|s| s.2))];
    found.plot("Throughput over time, last round", linear("seconds"), linear("messages a second"), lines);
    let waiting = samples.iter().map(|s| (s.0, s.1.saturating_sub(s.2) as f64)).collect();
    found.plot(
        "Backlog over time, last round",
        linear("seconds"),
        linear("messages committed and not received"),
        vec![line("backlog", waiting)],
    );
    let backlogs: Vec<f64> = samples.iter().map(|s| s.1.saturating_sub(s.2) as f64).collect();
    found.measure("backlog, median of the last round", "msg", Better::Lower, vec![median(&backlogs)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_the_slope_of_the_backlog() {
        let steady: Vec<Sample> =
            (0..50).map(|i| (f64::from(i), i as usize * 100 + 7, i as usize * 100)).collect();
        assert!(growth(&steady).abs() < 1e-9);
        let falling_behind: Vec<Sample> =
            (0..50).map(|i| (f64::from(i), i as usize * 100, i as usize * 90)).collect();
        assert!((growth(&falling_behind) - 10.0).abs() < 1e-6);
    }
}
